// VMCALL and VMMCALL: calls that nobody knows give -1000, from ring 0 and not from ring 3.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // Each kind of CPU has one of the two.
    mov rax, 0x123456789
    TRY(vmcall)
    cmp dword ptr [vector], 0x100
    je 1f
    EQ(dword ptr [vector], 6)
    mov byte ptr [call_in_loop + 2], 0xd9
    mov byte ptr [call_in_ring3 + 2], 0xd9
1:  mov ecx, 1000
2:  mov eax, 77
call_in_loop:
    vmcall
    EQ(rax, -1000)
    loop 2b
    NOT_ON(BOCHS_SVM, leave_ring3)
    mov byte ptr [idt + 0x80 * 16 + 5], 0xee
    mov word ptr [idt + 0x80 * 16], offset leave_ring3
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov eax, TSS
    ltr ax
    push USER_DATA
    push STACK3
    push 0x202
    push USER_CODE64
    push offset ring3
    iretq
ring3:
    mov eax, 77
call_in_ring3:
    vmcall
    EQ(rax, -1)
    int 0x80
leave_ring3:
    PASS
.balign 8
tss:
    .long 0
    .quad STACK0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    .word 0, 104
#include "traps64.inc"
#include "tables.inc"
