// What INVLPG, CR3, CR4.PGE, global pages and PCIDs make of translations that have changed.
#include "guest.inc"
.set TABLE, TABLES + 0x3000     // a table for 1 GiB + 2 MiB
.set PAGE, 0x40000000
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov dword ptr [TABLES + 0x1008], TABLES + 0x4007
    mov dword ptr [TABLES + 0x4000], TABLE + 7
    mov dword ptr [0x50000], 0x5555
    mov dword ptr [0x51000], 0x5151
    mov edi, PAGE
    mov ebp, 200
1:  // INVLPG.
    mov dword ptr [TABLE], 0x50007
    invlpg [rdi]
    EQ(dword ptr [rdi], 0x5555)
    mov dword ptr [TABLE], 0x51007
    invlpg [rdi]
    EQ(dword ptr [rdi], 0x5151)
    // CR3.
    mov dword ptr [TABLE], 0x50007
    mov rax, cr3
    mov cr3, rax
    EQ(dword ptr [rdi], 0x5555)
    // From present to not present, with an exit in between.
    mov dword ptr [TABLE], 0
    invlpg [rdi]
    OUT32(SCRATCH, ebp)
    TRAP(14, 0, mov eax, [rdi])
    // CR4.PGE drops global ones too.
    mov rax, cr4
    or eax, 0x80
    mov cr4, rax
    mov dword ptr [TABLE], 0x50107
    EQ(dword ptr [rdi], 0x5555)
    mov dword ptr [TABLE], 0x51107
    mov rax, cr4
    and eax, ~0x80
    mov cr4, rax
    EQ(dword ptr [rdi], 0x5151)
    dec ebp
    jnz 1b
    // CR0.WP counts at once.
    mov dword ptr [TABLE], 0x50005
    invlpg [rdi]
    TRAP(14, 3, mov [rdi], eax)
    mov rax, cr0
    and eax, ~0x10000
    mov cr0, rax
    NO_TRAP(mov [rdi], eax)
    or eax, 0x10000
    mov cr0, rax
    TRAP(14, 3, mov [rdi], eax)
    // PCIDs, where there are some.
    mov eax, 1
    xor ecx, ecx
    cpuid
    bt ecx, 17
    jnc done
    mov rax, cr4
    bts eax, 17
    mov cr4, rax
    mov dword ptr [TABLE], 0x50007
    mov dword ptr [0x50000], 0x5555
    mov eax, TABLES + 1
    mov cr3, rax
    EQ(dword ptr [rdi], 0x5555)
    mov dword ptr [TABLE], 0x51007
    mov eax, TABLES + 2
    mov cr3, rax
    EQ(dword ptr [rdi], 0x5151)
    mov eax, TABLES + 1 // without bit 63: dropped
    mov cr3, rax
    EQ(dword ptr [rdi], 0x5151)
    mov rax, cr3
    EQ(eax, TABLES + 1)
    bts rax, 63
    mov cr3, rax
    mov rax, cr3
    bt rax, 63
    IF(nc)
    EQ(dword ptr [rdi], 0x5151)
    // PCIDE comes only while the PCID is 0.
    mov eax, TABLES
    mov cr3, rax
    mov rax, cr4
    btr eax, 17
    mov cr4, rax
    mov eax, TABLES + 3
    mov cr3, rax
    mov rax, cr4
    bts eax, 17
    TRAP(13, 0, mov cr4, rax)
done:
    PASS
#include "traps64.inc"
#include "tables.inc"
