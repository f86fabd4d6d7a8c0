// Exceptions that the host injects, into handlers and into nothing.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // #UD, #GP with an error code, #PF with CR2, behind the OUT that asked for them.
    mov edx, RAISE
    mov eax, 6
    TRAP_AT(6, 0, offset 1b, out dx, eax; 1: nop)
    mov eax, 13 + 0x100 + (0x1230 << 16)
    TRAP_AT(13, 0x1230, offset 1b, out dx, eax; 1: nop)
    OUT32(ARGUMENT0, 0x12345678)
    mov edx, RAISE
    mov eax, 14 + 0x100 + (6 << 16)
    TRAP_AT(14, 6, offset 1b, out dx, eax; 1: nop)
    NOT_ON(BOCHS_SVM, 2f)
    EQ(dword ptr [fault_address], 0x12345678)
2:
    mov edx, RAISE
    mov eax, 17 + 0x100
    TRAP_AT(17, 0, offset 1b, out dx, eax; 1: nop)
    // One whose gate is not present: delivering it fails, and becomes a #NP or a #DF.
    mov byte ptr [idt + 6 * 16 + 5], 0x0e
    mov edx, RAISE
    mov eax, 6
    TRY(out dx, eax; 1: nop)
    EQ(dword ptr [vector], 11)
    mov byte ptr [idt + 6 * 16 + 5], 0x8e
    mov byte ptr [idt + 13 * 16 + 5], 0x0e
    mov edx, RAISE
    mov eax, 13 + 0x100
    TRY(out dx, eax; 1: nop)
    NOT_ON(QEMU, 2f)
    EQ(dword ptr [vector], 8)
2:  mov byte ptr [idt + 13 * 16 + 5], 0x8e

    // An interrupt whose delivery touches memory that the host has not mapped yet comes all the
    // same, once: its stack is on pages that nobody has used.
    mov ecx, 64
    mov ebx, 0x100000
3:  mov rbp, rsp
    lea rsp, [rbx + 0x1000]
    sti
    OUT8(INJECT, 0x50)
    nop
    cli
    mov rsp, rbp
    add ebx, 0x1000
    loop 3b
    EQ(dword ptr [interrupts], 64)
    PASS
#include "traps64.inc"
#include "tables.inc"
