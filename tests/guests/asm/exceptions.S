// Long mode: exceptions that the guest raises, in rings 0 and 3, nested, and double faults.
#include "guest.inc"
// QEMU counts 16 bytes for a place of the table in error codes.
#define TRAP_IDT(vector_, number_, ...) \
    TRY(__VA_ARGS__); EQ(dword ptr [vector], vector_); EQ(dword ptr [fault_ip], offset 780b); \
    bt dword ptr [error], 1; IF(c)
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // Faults: at the instruction.
    xor ecx, ecx
    mov eax, 1
    xor edx, edx
    TRAP(0, 0, div ecx)
    mov eax, 0x80000000
    cdq
    mov ecx, -1
    TRAP(0, 0, idiv ecx)
    TRAP(6, 0, ud2)
    TRAP(6, 0, .byte 0x06) // PUSH ES
    TRAP(6, 0, .byte 0xf0, 0x90) // LOCK NOP
    mov rax, 1 << 63
    TRAP(13, 0, mov ebx, [rax + 0x10000])
    mov eax, 0xfff8
    TRAP(13, 0xfff8, mov fs, eax)
    // Traps: behind it.
    TRAP_AT(3, 0, offset 780b + 1, int3)
    // INT n through a gate.
    mov dword ptr [interrupts], 0
    int 0x77
    EQ(dword ptr [interrupts], 1)
    // A gate that is not present, and one that is of no known kind.
    mov byte ptr [idt + 0x78 * 16 + 5], 0x0e
    TRAP_IDT(11, 0x78, int 0x78)
    mov byte ptr [idt + 0x78 * 16 + 5], 0x80
    TRAP_IDT(13, 0x78, int 0x78)
    mov byte ptr [idt + 0x78 * 16 + 5], 0x8e
    // A table that ends early.
    mov word ptr [short_register], 0x50 * 16 - 1
    lidt [short_register]
    TRAP_IDT(13, 0x50, int 0x50)
    lidt [idt_register]

    // Page faults, with CR2.
    mov rbx, 1 << 30
    TRAP(14, 0, mov eax, [rbx + 0x123])
    mov eax, 0x40000123
    EQ(qword ptr [fault_address], rax)
    TRAP(14, 2, mov dword ptr [rbx + 0x456], eax)
    EQ(dword ptr [fault_address], 0x40000456)
    // The fault is in the middle of a string: the registers are where it stopped.
    mov edi, 0x3ffffff0
    mov ecx, 8
    mov eax, 0x5a5a5a5a
    TRAP(14, 2, rep stosd)
    EQ(edi, 0x40000000)
    EQ(ecx, 4)
    // In the middle of a PUSH.
    call set_tss
    mov byte ptr [idt + 14 * 16 + 4], 1 // on a stack of its own
    mov rbp, rsp
    mov rsp, 0x40000008
    TRAP(14, 2, push rax)
    EQ(esp, 0x40000008)
    mov rsp, rbp

    // Single step: a trap behind each instruction.
    mov dword ptr [idt + 1 * 16], (CODE64 << 16)
    mov word ptr [idt + 1 * 16], offset step
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
    nop
    pushfq
    and dword ptr [rsp], ~0x100
    popfq
    EQ(dword ptr [steps], 5)

    // Ring 3.
    mov byte ptr [idt + 0x80 * 16 + 5], 0xee
    mov dword ptr [idt + 0x80 * 16], (CODE64 << 16)
    mov word ptr [idt + 0x80 * 16], offset leave_ring3
    push USER_DATA
    push STACK3
    push 0x202
    push USER_CODE64
    push offset ring3
    iretq
ring3:
    TRAP(13, 0, hlt)
    TRAP(13, 0, mov rax, cr3)
    TRAP(13, 0, lidt [idt_register])
    TRAP(13, 0, out 0xe9, al)
    TRAP(13, 0, rdmsr)
    TRAP(13, 0, mov rax, dr7)
    TRAP(13, 0, invlpg [0])
    TRAP_IDT(13, 0x79, int 0x79)
    TRAP(6, 0, ud2)
    EQ(dword ptr [fault_cs], USER_CODE64)
    mov rbx, 1 << 30
    TRAP(14, 4, mov eax, [rbx])
    TRAP(14, 6, mov [rbx], eax)
    int 0x80
leave_ring3:
    EQ(dword ptr [rsp + 8], USER_CODE64)
    mov esp, STACK

    // A fault in the delivery of a fault: #DF with error code 0, on its own stack.
    mov byte ptr [idt + 8 * 16 + 4], 2
    mov byte ptr [idt + 8 * 16 + 5], 0x8e
    mov byte ptr [idt + 13 * 16 + 5], 0x0e // #GP's gate is not present
    mov rax, 1 << 63
    TRY(mov ebx, [rax])
    NOT_ON(QEMU, 1f)
    EQ(dword ptr [vector], 8)
    EQ(dword ptr [error], 0)
1:
    // Two that make none: #UD comes to a gate that is not present.
    mov byte ptr [idt + 13 * 16 + 5], 0x8e
    mov byte ptr [idt + 6 * 16 + 5], 0x0e
    TRY(ud2)
    EQ(dword ptr [vector], 11)
    bt dword ptr [error], 1
    IF(c)
    mov byte ptr [idt + 6 * 16 + 5], 0x8e
    PASS

step:
    inc dword ptr [steps]
    push rax
    push rdx
    NOT_ON(BOCHS_SVM, 1f) // an intercepted #DB leaves nothing in DR6 there
    mov rax, dr6
    bt eax, 14
    IF(c)
1:  pop rdx
    pop rax
    iretq

set_tss:
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov eax, TSS
    ltr ax
    ret
.balign 8
tss:
    .long 0
    .quad STACK0, 0, 0, 0
    .quad STACK_IST, STACK_IST + 0x1000, 0, 0, 0, 0, 0, 0
    .word 0, 104
short_register: .word 0
    .quad idt
steps: .long 0
#include "traps64.inc"
#include "tables.inc"
