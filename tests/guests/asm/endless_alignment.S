// Alignment checks in ring 3 whose handler is in ring 3 too, on a stack that is not aligned: the
// delivery of each raises the next. A CPU that delivered them by itself would never come back.
#include "guest.inc"
    TO_PROTECTED
    SET_TRAPS32
    mov dword ptr [idt + 17 * 8], offset handler3 + (USER_CODE32 << 16)
    mov dword ptr [idt + 17 * 8 + 4], 0x0000ee00
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov eax, TSS
    ltr ax
    mov eax, cr0
    or eax, 0x40000 // AM
    mov cr0, eax
    push USER_DATA
    push STACK3 + 1
    push 0x40002 // AC
    push USER_CODE32
    push offset ring3
    iretd
ring3:
    mov eax, [esp]
    jmp ring3
handler3:
    mov eax, [esp]
    jmp handler3
.balign 8
tss:
    .long 0, STACK0, DATA32
    .skip 92
    .word 0, 104
#include "traps32.inc"
#include "tables.inc"
