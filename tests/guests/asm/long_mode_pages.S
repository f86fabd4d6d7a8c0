// Long mode with pages of 4 KiB, 2 MiB and, where there are such, 1 GiB.
#include "guest.inc"
.set PDPT, TABLES + 0x1000
.set DIRECTORY, TABLES + 0x2000
.set PAGES, TABLES + 0x3000
    TO_PROTECTED
    call build_identity
    // The first 2 MiB in 4 KiB pages.
    mov edi, PAGES
    mov eax, 7
    mov ecx, 512
1:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add edi, 8
    add eax, 0x1000
    loop 1b
    mov dword ptr [DIRECTORY], PAGES + 7
    LONG_ON
    SET_TRAPS64
    // 4 KiB, 2 MiB: the same memory at two addresses.
    mov dword ptr [PDPT + 8 * 3], DIRECTORY + 7 // at 3 GiB again
    mov rbx, 0xc0000000
    mov dword ptr [DATA], 0x11112222
    EQ(dword ptr [rbx + DATA], 0x11112222)
    mov dword ptr [0x200000 + 8], 0x33334444
    EQ(dword ptr [rbx + 0x200008], 0x33334444)
    // Accessed and dirty bits.
    mov eax, [PAGES + (DATA >> 12) * 8]
    and eax, 0x60
    EQ(eax, 0x60)
    mov eax, [PAGES + ((DATA + 0x5000) >> 12) * 8]
    and eax, 0x60
    EQ(eax, 0)
    mov al, [DATA + 0x5000]
    mov eax, [PAGES + ((DATA + 0x5000) >> 12) * 8]
    and eax, 0x60
    EQ(eax, 0x20)
    // 1 GiB, at 512 GiB.
    mov eax, 0x80000001
    cpuid
    bt edx, 26
    jnc no_gib
    mov dword ptr [TABLES + 8], PAGES + 0x1000 + 7
    mov dword ptr [PAGES + 0x1000], 0x87
    mov rbx, 1 << 39
    EQ(dword ptr [rbx + DATA], 0x11112222)
    mov dword ptr [rbx + DATA], 0x55556666
    EQ(dword ptr [DATA], 0x55556666)
    mov eax, [PAGES + 0x1000]
    and eax, 0x60
    EQ(eax, 0x60)
    // Across two large pages.
    mov qword ptr [rbx + 0x1ffffc], 0x77778888
    EQ(dword ptr [0x1ffffc], 0x77778888)
no_gib:
    // Faults: not present at each level, read-only, no execute, reserved, non-canonical.
    mov rbx, 1 << 40
    TRAP(14, 0, mov eax, [rbx])
    EQ(qword ptr [fault_address], rbx)
    mov rbx, 1 << 30
    TRAP(14, 2, mov [rbx], eax)
    mov rbx, 1 << 47
    TRAP(13, 0, mov eax, [rbx])
    mov qword ptr [PAGES + (DATA >> 12) * 8], 0
    invlpg [DATA]
    TRAP(14, 0, mov eax, [DATA + 4])
    EQ(dword ptr [fault_address], DATA + 4)
    mov dword ptr [PAGES + (DATA >> 12) * 8], DATA + 5
    invlpg [DATA]
    TRAP(14, 3, mov [DATA + 4], eax)
    mov eax, 1
    bts qword ptr [PAGES + (DATA >> 12) * 8], 63
    invlpg [DATA]
    mov eax, DATA
    TRAP_AT(14, 0x11, DATA, call rax)
    mov esp, STACK
    btr qword ptr [PAGES + (DATA >> 12) * 8], 63
    bts qword ptr [PAGES + (DATA >> 12) * 8], 51
    invlpg [DATA]
    TRY(mov eax, [DATA])
    EQ(dword ptr [vector], 14)
    bt dword ptr [error], 3 // QEMU forgets bit 0
    IF(c)
    mov dword ptr [PAGES + (DATA >> 12) * 8 + 4], 0
    // A fetch across two pages, the second not present.
    mov word ptr [DATA + 0x1fff], 0x9090
    mov qword ptr [PAGES + ((DATA + 0x2000) >> 12) * 8], 0
    invlpg [DATA + 0x2000]
    mov byte ptr [DATA + 0x1fff], 0xb8 // MOV EAX, imm32
    mov eax, DATA + 0x1fff
    TRAP_AT(14, 0x10, DATA + 0x1fff, call rax)
    EQ(dword ptr [fault_address], DATA + 0x2000)
    mov esp, STACK
    PASS
#include "traps64.inc"
#include "tables.inc"
