// Ports: IN and OUT of every size, strings, REP, up and down, in real, protected and long mode.
#include "guest.inc"
    // Real mode.
    cld
    mov sp, REAL_STACK
    mov dx, SCRATCH
    mov eax, 0x11223344
    out dx, eax
    xor eax, eax
    in eax, dx
    EQ(eax, 0x11223344)
    mov eax, 0x55555555
    in al, dx
    EQ(eax, 0x55555544)
    mov eax, 0x55555555
    in ax, dx
    EQ(eax, 0x55553344)
    mov ax, 0x6677
    out dx, ax
    IN32(SCRATCH)
    EQ(eax, 0x6677)
    out 0xe8, al // nobody there
    mov eax, -1
    in al, 0xe8
    EQ(al, 0xff)
    // A string in a segment with an override, DI wraps at 64 KiB.
    OUT32(FIFO_LENGTH, 0)
    mov ax, 0x4000
    mov es, ax
    mov dword ptr es:[0], 0x34333231
    xor si, si
    mov cx, 4
    mov dx, FIFO
    rep outsb dx, es:[si]
    EQ(cx, 0)
    EQ(si, 4)
    mov di, 0xfffe
    mov cx, 2
    rep insw
    EQ(di, 2)
    EQ(word ptr es:[0xfffe], 0x3231)
    EQ(word ptr es:[0], 0x3433)
    xor ax, ax
    mov es, ax

    TO_PROTECTED
    // All sizes, with the count of accesses that the device saw.
    IN32(SCRATCH_COUNT)
    mov ebx, eax
    OUT32(SCRATCH, 0x12345678)
    mov dx, SCRATCH
    in ax, dx
    IN32(SCRATCH_SIZE)
    EQ(eax, 2)
    IN32(SCRATCH_COUNT)
    sub eax, ebx
    EQ(eax, 2)
    // The count is zero: nothing happens.
    OUT32(FIFO_LENGTH, 0)
    xor ecx, ecx
    mov esi, NOWHERE
    mov dx, FIFO
    rep outsd
    EQ(esi, NOWHERE)
    IN32(FIFO_LENGTH)
    EQ(eax, 0)
    // Down.
    mov dword ptr [DATA], 0x44332211
    std
    mov esi, DATA + 3
    mov ecx, 4
    mov dx, FIFO
    rep outsb
    cld
    EQ(esi, DATA - 1)
    mov dx, FIFO
    in eax, dx
    EQ(eax, 0x11223344)
    // 16-bit addresses, with a prefix.
    mov dword ptr [0x8000], 0xcafebabe
    mov esi, 0xffff8000
    addr16 outsd
    EQ(esi, 0xffff8004)
    in eax, dx
    EQ(eax, 0xcafebabe)
    // An output buffer that is a device.
    mov dword ptr [DEVICE], 0x0badcafe
    mov esi, DEVICE
    mov ecx, 1
    rep outsd
    in eax, dx
    EQ(eax, 0x0badcafe)

    TO_LONG
    SET_TRAPS64
    // Two pages and more, both ways, up and down.
    mov edi, DATA
    mov ecx, 3000
    mov eax, 1
1:  mov [rdi], eax
    imul eax, eax, 1103515245
    add eax, 12345
    add edi, 4
    loop 1b
    OUT32(FIFO_LENGTH, 0)
    mov esi, DATA
    mov ecx, 3000
    mov dx, FIFO
    rep outsd
    EQ(ecx, 0)
    EQ(esi, DATA + 12000)
    IN32(FIFO_LENGTH)
    EQ(eax, 12000)
    mov edi, DATA + 0x10000
    mov ecx, 3000
    mov dx, FIFO
    rep insd
    EQ(ecx, 0)
    EQ(edi, DATA + 0x10000 + 12000)
    mov esi, DATA
    mov edi, DATA + 0x10000
    mov ecx, 3000
    repe cmpsd
    IF(e)
    // Bytes, words; down across a page.
    mov esi, DATA + 0x1001
    mov ecx, 8
    mov dx, FIFO
    std
    rep outsw
    mov edi, DATA + 0x20001
    mov ecx, 8
    rep insw
    cld
    mov rax, [DATA + 0x0ff3]
    EQ(qword ptr [DATA + 0x1fff3], rax)
    // RSI and RDI are whole; 32-bit addresses cut them.
    mov rsi, 0x100000000 + DATA
    mov ecx, 1
    addr32 rep outsb
    EQ(rsi, DATA + 1)
    in al, dx
    // A buffer that is not there: #PF, with the registers where it stopped.
    OUT32(FIFO_LENGTH, 0)
    mov edi, 0x40000000 - 0x8
    mov dword ptr [TABLES + 0x2000 + 511 * 8], 0x200087 // 2 MiB below 1 GiB are memory
    mov ecx, 3
    mov dx, FIFO
    OUT32(FIFO, 0x1111)
    OUT32(FIFO, 0x2222)
    OUT32(FIFO, 0x3333)
    TRAP(14, 2, rep insd)
    EQ(edi, 0x40000000)
    EQ(ecx, 1)
    NOT_ON(BOCHS_SVM, 1f) // CR2 is not loaded by VMRUN there
    EQ(qword ptr [fault_address], rdi)
1:
    mov rax, 0x222200001111
    EQ(qword ptr [0x3ffffff8], rax)
    PASS
#include "traps64.inc"
#include "tables.inc"
