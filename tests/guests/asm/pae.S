// Protected mode with PAE paging: 4 KiB and 2 MiB pages, rights, the four pointers.
#include "guest.inc"
.set PDPT, 0x30000
.set DIRECTORY, 0x31000
.set PAGES, 0x32000
.set OTHER_PDPT, 0x33000
    TO_PROTECTED
    SET_TRAPS32
    // 4 MiB to itself: the first 2 MiB in 4 KiB pages, then a large page; the same 2 MiB again at
    // 1 GiB.
    cld
    xor eax, eax
    mov edi, PDPT
    mov ecx, 4 * 1024
    rep stosd
    mov dword ptr [PDPT], DIRECTORY + 1
    mov dword ptr [PDPT + 8], DIRECTORY + 1
    mov dword ptr [OTHER_PDPT], DIRECTORY + 1
    mov dword ptr [DIRECTORY], PAGES + 7
    mov dword ptr [DIRECTORY + 8], 0x200083
    mov edi, PAGES
    mov eax, 3
    mov ecx, 512
1:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    loop 1b
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
    mov eax, PDPT
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    jmp 2f
2:
    // The same memory at two addresses.
    mov dword ptr [DATA], 0x12345678
    EQ(dword ptr [0x40000000 + DATA], 0x12345678)
    mov dword ptr [0x40200000 + 0x10], 0x9abcdef0
    EQ(dword ptr [0x200010], 0x9abcdef0)
    // Accessed and dirty bits.
    test dword ptr [DIRECTORY + 8], 0x60
    IF(nz)
    mov eax, [PAGES + (DATA >> 12) * 8]
    and eax, 0x60
    EQ(eax, 0x60)

    // Not present, at each level; read-only, with WP and without.
    TRAP(14, 0, mov al, [0x80000000])
    EQ(dword ptr [fault_address], 0x80000000)
    TRAP(14, 2, mov dword ptr [0x400000], 1)
    mov dword ptr [PAGES + ((DATA + 0x1000) >> 12) * 8], 0
    invlpg [DATA + 0x1000]
    TRAP(14, 2, mov dword ptr [DATA + 0x1ffc], eax)
    EQ(dword ptr [fault_address], DATA + 0x1ffc)
    TRAP(14, 2, mov dword ptr [DATA + 0xffe], eax)
    EQ(dword ptr [fault_address], DATA + 0x1000)
    mov dword ptr [PAGES + ((DATA + 0x1000) >> 12) * 8], DATA + 0x1001
    invlpg [DATA + 0x1000]
    TRAP(14, 3, mov dword ptr [DATA + 0x1000], eax)
    mov eax, cr0
    and eax, ~0x10000
    mov cr0, eax
    NO_TRAP(mov dword ptr [DATA + 0x1000], eax)
    or eax, 0x10000
    mov cr0, eax
    // No execute.
    mov byte ptr [DATA], 0xc3
    mov dword ptr [PAGES + (DATA >> 12) * 8 + 4], 0x80000000
    invlpg [DATA]
    mov eax, DATA
    TRAP_AT(14, 0x11, DATA, call eax)
    mov dword ptr [PAGES + (DATA >> 12) * 8 + 4], 0
    invlpg [DATA]
    mov esp, STACK
    NO_TRAP(call eax)
    // A reserved bit.
    mov dword ptr [PAGES + (DATA >> 12) * 8 + 4], 0x40000000
    invlpg [DATA]
    TRY(mov al, [DATA])
    EQ(dword ptr [vector], 14)
    bt dword ptr [error], 3 // QEMU forgets bit 0
    IF(c)
    mov dword ptr [PAGES + (DATA >> 12) * 8 + 4], 0

    // The pointers are read when CR3 is loaded; before that, some CPUs read them and some do not.
    mov dword ptr [PDPT + 8], 0
    mov eax, PDPT
    mov cr3, eax
    TRAP(14, 0, mov eax, [0x40200000])
    mov eax, OTHER_PDPT
    mov cr3, eax
    EQ(dword ptr [0x200010], 0x9abcdef0)
    PASS
#include "traps32.inc"
#include "tables.inc"
