// Real mode: far calls, interrupts through the table at 0, segments, flags.
#include "guest.inc"
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, REAL_STACK
    cld

    // A far call pushes CS and IP, a far return pops them.
    lcall 0x0100, offset far_there - 0x1000
    EQ(bx, 0x0100)
    EQ(sp, REAL_STACK)
    mov word ptr [pointer], offset far_there - 0x1000
    mov word ptr [pointer + 2], 0x0100
    xor bx, bx
    lcall [pointer]
    EQ(bx, 0x0100)

    // INT n goes through the table with the flags on the stack and interrupts off.
    mov word ptr [0x80 * 4], offset interrupt
    mov word ptr [0x80 * 4 + 2], 0
    sti
    stc
    int 0x80
    IF(c)
    EQ(cx, 0x8080)
    pushf
    pop ax
    test ax, 0x200
    IF(nz)
    cli

    // INT3 and INTO.
    mov word ptr [3 * 4], offset interrupt
    mov word ptr [3 * 4 + 2], 0
    xor cx, cx
    int3
    EQ(cx, 0x8080)
    mov word ptr [4 * 4], offset interrupt
    mov word ptr [4 * 4 + 2], 0
    xor cx, cx
    mov al, 0x7f
    add al, 1
    into
    EQ(cx, 0x8080)
    xor cx, cx
    xor ax, ax
    into
    EQ(cx, 0)

    // A divide error is a fault: the handler sees the address of the instruction.
    mov word ptr [0], offset divide_error
    mov word ptr [2], 0
    mov ax, 1
    xor cx, cx
divide:
    div cl
    EQ(cx, 1)

    // An invalid opcode too.
    mov word ptr [6 * 4], offset invalid_opcode
    mov word ptr [6 * 4 + 2], 0
    xor cx, cx
invalid:
    ud2
    EQ(cx, 2)

    // Segments are shifted by four; addresses reach beyond 1 MiB.
    mov ax, 0x4000
    mov ds, ax
    mov word ptr [0x10], 0x1234
    mov ax, 0x4001
    mov es, ax
    EQ(word ptr es:[0], 0x1234)
    mov ax, 0xffff
    mov es, ax
    mov word ptr es:[0x20], 0x5678
    xor ax, ax
    mov ds, ax
    mov ax, 0x1000
    mov fs, ax

    // Strings, both ways.
    mov ax, 0x4000
    mov ds, ax
    mov es, ax
    mov si, 0x10
    mov di, 0x1010
    mov cx, 8
    rep movsw
    EQ(cx, 0)
    EQ(di, 0x1020)
    EQ(word ptr [0x1010], 0x1234)
    std
    mov di, 0x101e
    mov ax, 0x5555
    mov cx, 4
    rep stosw
    cld
    EQ(di, 0x1016)
    EQ(word ptr [0x1018], 0x5555)
    NE(word ptr [0x1016], 0x5555)
    xor ax, ax
    mov ds, ax
    mov es, ax

    // PUSHA, ENTER, BOUND, shifts of 32 bits with a prefix.
    mov ax, 0x1111
    mov di, 0x2222
    pusha
    mov ax, 0
    mov di, 0
    popa
    EQ(ax, 0x1111)
    EQ(di, 0x2222)
    mov eax, 0x12345678
    rol eax, 16
    EQ(eax, 0x56781234)
    PASS

pointer: .word 0, 0

far_there:
    mov bx, cs
    retf

interrupt:
    pushf
    pop cx
    test cx, 0x200
    jnz 1f
    mov cx, 0x8080
1:  iret

divide_error:
    push bp
    mov bp, sp
    cmp word ptr [bp + 2], offset divide
    jne 1f
    mov cx, 1
    add word ptr [bp + 2], 2
1:  pop bp
    iret

invalid_opcode:
    push bp
    mov bp, sp
    cmp word ptr [bp + 2], offset invalid
    jne 1f
    mov cx, 2
    add word ptr [bp + 2], 2
1:  pop bp
    iret
