// A task switch by hardware. The kernel does not do it; the owner is told.
#include "guest.inc"
    TO_PROTECTED
    SET_TRAPS32
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset old
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov dword ptr [gdt + FREE], 0x67
    mov word ptr [gdt + FREE + 2], offset new
    mov dword ptr [gdt + FREE + 4], 0x00008900
    mov eax, TSS
    ltr ax
    ljmp FREE, 0
    FAIL
.balign 8
old: .skip 104
new:
    .skip 32
    .long there, 2
    .skip 16
    .long STACK, 0, 0, 0
    .long DATA32, CODE32, DATA32, DATA32, DATA32, DATA32
    .skip 8
there:
    FAIL
#include "traps32.inc"
#include "tables.inc"
