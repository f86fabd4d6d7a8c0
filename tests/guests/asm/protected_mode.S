// Protected mode: segments and their rights, an LDT, ring 3 and back, gates.
#include "guest.inc"
    TO_PROTECTED
    SET_TRAPS32

    // A selector beyond the table; a null one in SS; a null one in ES.
    mov eax, 0xfff8
    TRAP(13, 0xfff8, mov es, eax)
    xor eax, eax
    TRAP(13, 0, mov ss, eax)
    mov es, eax
    // A data segment that is not present; code into SS.
    mov dword ptr [gdt + FREE], 0x0000ffff
    mov dword ptr [gdt + FREE + 4], 0x00cf1300
    mov eax, FREE
    TRAP(11, FREE, mov es, eax)
    TRAP(12, FREE, mov ss, eax)
    mov eax, CODE32
    TRAP(13, CODE32, mov ss, eax)
    // The base is added, the accessed bit is set.
    mov dword ptr [gdt + FREE], 0x0000ffff
    mov dword ptr [gdt + FREE + 4], 0x00cf9204
    mov dword ptr [DATA + 0x10], 0x11223344
    mov eax, FREE
    mov fs, eax
    EQ(dword ptr fs:[0x10], 0x11223344)
    EQ(byte ptr [gdt + FREE + 5], 0x93)
    // A read-only segment.
    mov dword ptr [gdt + FREE + 4], 0x00cf9004
    mov fs, eax
    EQ(dword ptr fs:[0x10], 0x11223344)

    // A far call through a call gate in ring 0, and one through memory.
    mov dword ptr [gdt + FREE + 8], (CODE32 << 16)
    mov word ptr [gdt + FREE + 8], offset far_there
    mov dword ptr [gdt + FREE + 12], 0x00008c00
    xor ebx, ebx
    lcall FREE + 8, 0
    EQ(ebx, 77)
    EQ(esp, STACK)
    mov dword ptr [pointer], offset far_there
    mov word ptr [pointer + 4], CODE32
    xor ebx, ebx
    lcall [pointer]
    EQ(ebx, 77)
    // Not a code segment; a code segment that is not present.
    TRAP(13, DATA32, ljmp DATA32, 0)
    mov dword ptr [gdt + FREE + 16], 0x0000ffff
    mov dword ptr [gdt + FREE + 20], 0x00cf1b00
    TRAP(11, FREE + 16, ljmp FREE + 16, 0)

    // An LDT.
    mov dword ptr [gdt + LDT], 15
    mov word ptr [gdt + LDT + 2], offset ldt
    mov dword ptr [gdt + LDT + 4], 0x00008200
    mov eax, LDT
    lldt ax
    sldt bx
    EQ(bx, LDT)
    mov eax, 4
    mov gs, eax
    EQ(dword ptr gs:[0x10], 0x11223344)
    mov eax, 0x14
    TRAP(13, 0x14, mov gs, eax)
    lar eax, [ldt_selector]
    IF(z)
    EQ(ah, 0x93)
    lsl eax, [ldt_selector]
    EQ(eax, 0x1f)
    verw [ldt_selector]
    IF(z)

    // A 16-bit code segment.
    ljmp CODE16, offset in16
.code16
in16:
    mov ax, 0x7fff
    inc ax
    IF(o)
    ljmp CODE32, offset in32
.code32
in32:

    // Ring 3, with a TSS for the way back.
    mov dword ptr [tss + 4], STACK0
    mov word ptr [tss + 8], DATA32
    mov word ptr [tss + 102], 104
    mov dword ptr [gdt + TSS], 103 + 8 + 1
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov eax, TSS
    ltr ax
    EQ(byte ptr [gdt + TSS + 5], 0x8b)
    TRAP(13, TSS, ltr ax)
    // A gate that ring 3 may use, and one that it may not.
    mov byte ptr [idt + 0x80 * 8 + 5], 0xee
    mov word ptr [idt + 0x80 * 8], offset leave_ring3
    mov word ptr [gdt + FREE + 24], offset gate_from_3
    mov word ptr [gdt + FREE + 26], CODE32
    mov dword ptr [gdt + FREE + 28], 0x0000ec01
    push USER_DATA
    push STACK3
    push 0x202
    push USER_CODE32
    push offset ring3
    iretd
ring3:
    mov eax, USER_DATA
    mov ds, eax
    mov es, eax
    mov ax, cs
    EQ(ax, USER_CODE32)
    TRAP(13, 0, hlt)
    TRAP(13, 0, cli)
    TRAP(13, 0, mov eax, cr0)
    TRAP(13, 0, in al, 0xe8)
    TRAP(13, 0x81 * 8 + 2, int 0x81)
    mov ebx, DATA32
    TRAP(13, DATA32, mov ds, ebx)
    TRAP(13, 0, lgdt [gdt_register])
    TRAP(13, 0, invd)
    // A call gate for ring 3 brings it to ring 0 with a parameter copied.
    mov word ptr [pointer + 4], FREE + 24
    push 0x1234
    lcall [pointer]
    EQ(ebx, 0x1234)
    // The port bitmap allows one port.
    in al, 3
    int 0x80
leave_ring3:
    mov eax, DATA32
    mov ds, eax
    mov es, eax
    EQ(esp, STACK0 - 20)
    EQ(dword ptr [esp + 16], USER_DATA)
    EQ(dword ptr [esp + 4], USER_CODE32)
    mov esp, STACK

    PASS

far_there:
    mov ebx, 77
    retf

gate_from_3:
    mov ebx, [esp + 8]
    mov ax, cs
    EQ(ax, CODE32)
    retf 4

.balign 8
ldt:
    .quad 0x004093040000001f // 32 bytes from DATA on
    .quad 0
ldt_selector: .quad 4
pointer: .quad 0
.balign 8
tss: .skip 104
    .byte 0xf7, 0xff, 0, 0, 0, 0, 0, 0, 0xff
#include "traps32.inc"
#include "tables.inc"
