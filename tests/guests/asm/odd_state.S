// Odd selectors and descriptor tables, page tables that map themselves, SYSCALL into the dark,
// interrupts without end, INVPCID: nothing of it harms the host, and the guest goes on.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // LDT and TR: null, beyond the table, of the wrong kind, busy.
    xor eax, eax
    NO_TRAP(lldt ax)
    NOT_ON(QEMU, 1f) // which takes a null TR
    xor eax, eax
    TRAP(13, 0, ltr ax)
1:
    mov eax, 0xfff8
    TRAP(13, 0xfff8, lldt ax)
    TRAP(13, 0xfff8, ltr ax)
    mov eax, CODE64
    TRAP(13, CODE64, lldt ax)
    TRAP(13, CODE64, ltr ax)
    mov eax, 4
    TRAP(13, 4, lldt ax)
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00000900 // not present
    mov eax, TSS
    TRAP(11, TSS, ltr ax)
    mov byte ptr [gdt + TSS + 5], 0x89
    NO_TRAP(ltr ax)
    TRAP(13, TSS, ltr ax) // busy now
    // Selectors.
    mov eax, 0xffff
    TRAP(13, 0xfffc, mov ds, eax)
    xor eax, eax
    NO_TRAP(mov ds, eax)
    mov eax, DATA32
    mov ds, eax
    xor eax, eax
    NO_TRAP(mov ss, eax) // null is right in ring 0
    mov eax, DATA32
    mov ss, eax
    TRY(mov cs, eax)
    EQ(dword ptr [vector], 6)

    // A table that ends early; and one of which every descriptor is another.
    mov word ptr [register], CODE64 + 7
    lgdt [register]
    mov eax, DATA16
    TRAP(13, DATA16, mov fs, eax)
    mov word ptr [register], 0xffff
    lgdt [register]
    mov esi, 8
1:  mov eax, esi
    TRY(mov fs, eax)
    TRY(lar ebx, eax)
    TRY(lsl ebx, eax)
    TRY(verr ax)
    TRY(verw ax)
    add esi, 8 * 13 + 1
    cmp esi, 0xfff0
    jb 1b
    lgdt [gdt_register]
    xor eax, eax
    mov fs, eax

    // The highest table maps itself, as all four levels.
    mov dword ptr [TABLES + 511 * 8], TABLES + 7
    mov rax, cr3
    mov cr3, rax
    mov rbx, -4096
    mov eax, [rbx + 511 * 8]
    and eax, 0xfffff007
    EQ(eax, TABLES + 7)
    // Writing there changes the translation that the write itself uses.
    mov rax, [rbx]
    mov [rbx + 8 * 100], rax
    EQ([TABLES + 8 * 100], rax)
    mov rcx, 100 << 39
    mov dword ptr [DATA], 0x1357
    EQ(dword ptr [rcx + DATA], 0x1357)
    mov qword ptr [rbx + 8 * 100], 0
    invlpg [rcx + DATA]
    TRAP(14, 0, mov eax, [rcx + DATA])
    mov qword ptr [rbx + 511 * 8], 0
    invlpg [rbx]
    TRAP(14, 0, mov eax, [rbx])

    // SYSCALL to where nothing is, with odd selectors; the handler brings it back.
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, 0x00330018 // CODE64, and SS is the next
    wrmsr
    mov ecx, 0xc0000082
    mov eax, 0x40000000
    xor edx, edx
    wrmsr
    mov rbp, rsp
    TRY(syscall)
    mov rsp, rbp
    EQ(dword ptr [vector], 14)
    EQ(dword ptr [fault_ip], 0x40000000)
    mov eax, DATA32
    mov ss, eax
    NOT_ON(QEMU, 1f) // which takes every address
    mov ecx, 0xc0000082
    xor eax, eax
    mov edx, 0x8000
    TRAP(13, 0, wrmsr)
1:

    // Interrupts, one in the other until the stack ends in nothing; the fault has its own stack.
    mov byte ptr [idt + 14 * 16 + 4], 1
    mov byte ptr [idt + 8 * 16 + 4], 1
    mov word ptr [idt + 0x90 * 16], offset deeper
    mov dword ptr [idt + 0x90 * 16 + 4], 0x00008e00
    mov rbp, rsp
    mov dword ptr [TABLES + 0x1008], TABLES + 0x3007
    mov dword ptr [TABLES + 0x3000], 0x87
    mov rsp, 0x40000000 + DATA + 0x8000
    mov dword ptr [resume], offset 2f
    mov ecx, 1200
    int 0x90
2:  mov rsp, rbp
    mov dword ptr [resume], 0
    // Accesses at the edges of what is canonical.
    mov rbx, 0x7ffffffffffc
    TRY(mov rax, [rbx])
    NE(dword ptr [vector], 0x100)
    mov rbx, 0xffff800000000000
    TRAP(14, 0, mov eax, [rbx])
    mov rbx, -4
    TRY(mov rax, [rbx])
    NE(dword ptr [vector], 0x100)

    // INVPCID, where there is one: kinds that there are and kinds that there are not.
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov eax, 0
    bt ebx, 10
    jnc 3f
    pxor xmm0, xmm0
    movdqu [DATA], xmm0
    mov dword ptr [TABLES + 0x3008], 0x87
    mov eax, [0x40200000 + DATA]
    mov dword ptr [TABLES + 0x3008], 0
    mov qword ptr [DATA + 8], 0x40200000
    xor eax, eax
    NO_TRAP(invpcid rax, [DATA])
    TRAP(14, 0, mov ebx, [0x40200000 + DATA])
    mov eax, 1
    NO_TRAP(invpcid rax, [DATA])
    mov eax, 2
    NO_TRAP(invpcid rax, [DATA])
    mov eax, 3
    NO_TRAP(invpcid rax, [DATA])
    mov eax, 4
    TRAP(13, 0, invpcid rax, [DATA])
    mov dword ptr [DATA], 1 // a PCID without CR4.PCIDE
    xor eax, eax
    TRAP(13, 0, invpcid rax, [DATA])
    mov dword ptr [DATA], 0x1000
    mov eax, 1
    TRAP(13, 0, invpcid rax, [DATA])
3:  PASS
deeper:
    loop 4f
    jmp 2b
4:  int 0x90
.balign 8
register: .word 0
    .quad gdt
tss:
    .long 0
    .quad STACK0, 0, 0, 0, STACK_IST, 0, 0, 0, 0, 0, 0, 0
    .word 0, 104
#include "traps64.inc"
#include "tables.inc"
