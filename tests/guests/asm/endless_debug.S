// A breakpoint on the stack on which its own exception is delivered: each delivery raises the next.
// A CPU that delivered them by itself would never come back to its host.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov word ptr [idt + 16], offset again
    mov eax, STACK - 8
    mov dr0, rax
    lea rax, [rax - 8]
    mov dr1, rax
    mov eax, 0x00bb040f // writes of eight bytes, and reads
    mov dr7, rax
    push rax
again:
    push rax
    pop rax
    mov rsp, STACK
    push rax
    jmp again
#include "traps64.inc"
#include "tables.inc"
