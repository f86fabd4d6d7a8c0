// CR0, CR3, CR4, EFER, CR8 and XCR0: what may be set, what must raise #GP.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // CR0: PG without PE, NW without CD, the upper half. CR0.PG stays in long mode.
    mov rbx, cr0
    mov rax, rbx
    and eax, ~1
    TRAP(13, 0, mov cr0, rax)
    mov rax, rbx
    or eax, 0x20000000
    TRAP(13, 0, mov cr0, rax)
    NOT_ON(QEMU, 1f)
    mov rax, rbx
    bts rax, 32
    TRAP(13, 0, mov cr0, rax)
1:
    mov rax, cr0
    EQ(rax, rbx)
    // Bits that may change: TS by CLTS and LMSW, WP, CD, AM.
    mov rax, rbx
    or rax, 8
    mov cr0, rax
    TRAP(7, 0, fnop)
    clts
    mov rax, cr0
    EQ(rax, rbx)
    mov eax, ebx
    or eax, 8
    lmsw ax
    smsw ecx
    EQ(ecx, eax)
    mov eax, ebx
    and eax, 0xfff0 // LMSW does not clear PE
    lmsw ax
    mov rax, cr0
    bt eax, 0
    IF(c)
    bt eax, 3
    IF(nc)
    mov cr0, rbx
    mov rax, rbx
    or eax, 0x40000000
    mov cr0, rax
    mov rax, cr0
    bt eax, 30
    IF(c)
    mov cr0, rbx

    // CR4: PAE stays in long mode; reserved bits.
    mov rbx, cr4
    mov rax, rbx
    and eax, ~0x20
    TRAP(13, 0, mov cr4, rax)
    mov rax, rbx
    bts rax, 15
    TRAP(13, 0, mov cr4, rax)
    mov rax, rbx
    bts rax, 31
    TRAP(13, 0, mov cr4, rax)
    mov rax, rbx
    bts rax, 32
    TRAP(13, 0, mov cr4, rax)
    mov rax, rbx
    bts rax, 13 // VMXE
    TRAP(13, 0, mov cr4, rax)
    mov rax, cr4
    EQ(rax, rbx)
    mov rax, rbx
    or eax, 4 // TSD
    mov cr4, rax
    mov rax, cr4
    bt eax, 2
    IF(c)
    NO_TRAP(rdtsc)
    mov cr4, rbx
    or rbx, 0x80 // PGE
    mov cr4, rbx
    mov rax, cr4
    EQ(rax, rbx)

    // CR3: reserved bits above the physical addresses.
    NOT_ON(QEMU, 1f)
    mov rbx, cr3
    mov rax, rbx
    bts rax, 52
    TRAP(13, 0, mov cr3, rax)
    mov rax, rbx
    bts rax, 63 // without PCID
    TRAP(13, 0, mov cr3, rax)
    mov rax, cr3
    EQ(rax, rbx)
    mov cr3, rbx
1:

    // Registers that there are not.
    TRAP(6, 0, .byte 0x0f, 0x22, 0xc8) // MOV CR1, RAX
    TRAP(6, 0, .byte 0x0f, 0x20, 0xc8)
    TRAP(6, 0, .byte 0x0f, 0x22, 0xe8) // MOV CR5, RAX
    TRAP(6, 0, .byte 0x0f, 0x20, 0xf8) // MOV RAX, CR7
    TRAP(6, 0, .byte 0x44, 0x0f, 0x20, 0xc8) // MOV RAX, CR9
    TRAP(6, 0, .byte 0x44, 0x0f, 0x22, 0xf8) // MOV CR15, RAX

    // CR8.
    mov eax, 5
    mov cr8, rax
    mov rcx, cr8
    EQ(rcx, 5)
    mov eax, 16
    TRAP(13, 0, mov cr8, rax)
    xor eax, eax
    mov cr8, rax

    // CR2 holds what is put there.
    mov rax, 0x123456789abc
    mov cr2, rax
    mov rcx, cr2
    EQ(rcx, rax)

    // EFER: reserved bits; LME does not change while paging; LMA is not written.
    mov ecx, 0xc0000080
    rdmsr
    mov ebx, eax
    bt eax, 10
    IF(c)
    btr eax, 8
    TRAP(13, 0, wrmsr)
    mov eax, ebx
    bts eax, 1
    TRAP(13, 0, wrmsr)
    mov eax, ebx
    bts eax, 19
    TRAP(13, 0, wrmsr)
    mov eax, ebx
    mov edx, 1
    TRAP(13, 0, wrmsr)
    xor edx, edx
    rdmsr
    EQ(eax, ebx)
    mov eax, ebx
    btr eax, 0 // SCE
    wrmsr
    TRAP(6, 0, syscall)
    mov eax, ebx
    wrmsr

    // XCR0, where there is XSAVE.
    mov eax, 1
    xor ecx, ecx
    cpuid
    bt ecx, 26
    jnc no_xsave
    mov rbx, cr4
    mov rax, rbx
    btr eax, 18
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 1
    TRAP(6, 0, xsetbv)
    TRAP(6, 0, xgetbv)
    bts rbx, 18
    mov cr4, rbx
    mov eax, 1
    xor ecx, ecx
    cpuid
    bt ecx, 27 // CPUID follows CR4
    IF(c)
    xor ecx, ecx
    xgetbv
    EQ(eax, 1)
    EQ(edx, 0)
    xor edx, edx
    mov eax, 3
    NO_TRAP(xsetbv)
    xgetbv
    EQ(eax, 3)
    xor eax, eax
    TRAP(13, 0, xsetbv)
    mov eax, 2
    TRAP(13, 0, xsetbv)
    mov eax, 5 // AVX without SSE
    TRAP(13, 0, xsetbv)
    mov eax, 3
    mov edx, 0x40000000
    TRAP(13, 0, xsetbv)
    xor edx, edx
    mov ecx, 1
    TRAP(13, 0, xsetbv)
    xor ecx, ecx
    xgetbv
    EQ(eax, 3)
no_xsave:
    PASS
#include "traps64.inc"
#include "tables.inc"
