// Instructions whose operand is a device: what they compute, and which accesses the device sees.
#include "guest.inc"
// Runs one instruction, during which the device must see so many reads and writes, the last of
// them with so many bytes. Keeps every register and the flags.
#define FORM(reads_, writes_, size_, ...) \
    mov dword ptr [want], (reads_) + ((writes_) << 8) + ((size_) << 16); \
    mov dword ptr [line], __LINE__; \
    call device_reset; __VA_ARGS__; call device_check
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov ebx, DEVICE

    // MOV: registers, constants, every size.
    mov rax, 0x1122334455667788
    FORM(0, 1, 8, mov [rbx], rax)
    FORM(1, 0, 8, mov rcx, [rbx])
    EQ(rcx, rax)
    FORM(1, 0, 4, mov ecx, [rbx + 4])
    EQ(rcx, 0x11223344)
    mov rcx, -1
    FORM(1, 0, 2, mov cx, [rbx])
    EQ(rcx, -0x8878)
    mov rcx, -1
    FORM(1, 0, 1, mov ch, [rbx + 1])
    EQ(ch, 0x77)
    FORM(1, 0, 1, mov sil, [rbx + 3])
    EQ(sil, 0x55)
    FORM(0, 1, 1, mov [rbx + 16], ah)
    FORM(1, 0, 1, mov dl, [rbx + 16])
    EQ(dl, 0x77)
    FORM(0, 1, 1, mov byte ptr [rbx + 8], 0x99)
    FORM(0, 1, 2, mov word ptr [rbx + 10], 0x1234)
    FORM(0, 1, 4, mov dword ptr [rbx + 12], 0x89abcdef)
    FORM(0, 1, 8, mov qword ptr [rbx + 8], -2)
    FORM(1, 0, 8, mov r9, [rbx + 8])
    EQ(r9, -2)
    FORM(0, 1, 4, mov [rbx + r9 * 2 + 24], r9d)
    FORM(1, 0, 4, mov r10d, [rbx + 20])
    EQ(r10d, -2)
    FORM(1, 0, 8, movabs rax, [DEVICE])
    mov rcx, 0x1122334455667788
    EQ(rax, rcx)
    FORM(0, 1, 4, movabs [DEVICE + 32], eax)
    FORM(1, 0, 1, movabs al, [DEVICE + 33])
    EQ(al, 0x77)

    // Extended by zeroes and by the sign.
    mov dword ptr [rbx], 0x80ff8182
    FORM(1, 0, 1, movzx ecx, byte ptr [rbx])
    EQ(ecx, 0x82)
    FORM(1, 0, 2, movzx ecx, word ptr [rbx])
    EQ(ecx, 0x8182)
    FORM(1, 0, 1, movsx ecx, byte ptr [rbx])
    EQ(ecx, -0x7e)
    FORM(1, 0, 2, movsx rcx, word ptr [rbx])
    EQ(rcx, -0x7e7e)
    FORM(1, 0, 4, movsxd rcx, dword ptr [rbx])
    EQ(rcx, -0x7f007e7e)
    FORM(1, 0, 1, movzx r8w, byte ptr [rbx + 3])
    EQ(r8w, 0x80)

    // Arithmetic into memory.
    mov dword ptr [rbx], 0x7fffffff
    mov eax, 1
    FORM(1, 1, 4, add [rbx], eax)
    IF(o)
    EQ(dword ptr [rbx], 0x80000000)
    stc
    FORM(1, 1, 4, adc dword ptr [rbx], 0)
    EQ(dword ptr [rbx], 0x80000001)
    FORM(1, 1, 1, sub byte ptr [rbx], 2)
    IF(c)
    EQ(dword ptr [rbx], 0x800000ff)
    stc
    FORM(1, 1, 8, sbb qword ptr [rbx], 0)
    EQ(dword ptr [rbx], 0x800000fe)
    FORM(1, 1, 2, and word ptr [rbx], 0x0ff0)
    EQ(dword ptr [rbx], 0x800000f0)
    FORM(1, 1, 4, or dword ptr [rbx], 0x12345)
    EQ(dword ptr [rbx], 0x800123f5)
    FORM(1, 1, 4, xor [rbx], eax)
    EQ(dword ptr [rbx], 0x800123f4)
    FORM(1, 1, 4, inc dword ptr [rbx])
    FORM(1, 1, 4, dec dword ptr [rbx])
    EQ(dword ptr [rbx], 0x800123f4)
    FORM(1, 1, 4, neg dword ptr [rbx])
    EQ(dword ptr [rbx], 0x7ffedc0c)
    FORM(1, 1, 4, not dword ptr [rbx])
    EQ(dword ptr [rbx], 0x800123f3)
    FORM(1, 1, 4, lock add dword ptr [rbx], 13)
    EQ(dword ptr [rbx], 0x80012400)
    FORM(1, 1, 4, lock inc dword ptr [rbx])
    EQ(dword ptr [rbx], 0x80012401)

    // Arithmetic from memory; comparisons only read.
    mov eax, 1
    FORM(1, 0, 4, add eax, [rbx])
    EQ(eax, 0x80012402)
    FORM(1, 0, 4, sub eax, [rbx])
    EQ(eax, 1)
    FORM(1, 0, 4, and eax, [rbx])
    EQ(eax, 1)
    FORM(1, 0, 4, or eax, [rbx])
    FORM(1, 0, 4, xor eax, [rbx])
    EQ(eax, 0)
    FORM(1, 0, 4, cmp dword ptr [rbx], 0x80012401)
    IF(e)
    mov ecx, 0x80012401
    FORM(1, 0, 4, cmp ecx, [rbx])
    IF(e)
    FORM(1, 0, 1, cmp byte ptr [rbx], 2)
    IF(b)
    FORM(1, 0, 1, test byte ptr [rbx], 1)
    IF(nz)
    FORM(1, 0, 4, test [rbx], ecx)
    IF(s)

    // Multiplication and division by memory.
    mov dword ptr [rbx], 7
    mov eax, 6
    FORM(1, 0, 4, mul dword ptr [rbx])
    EQ(eax, 42)
    EQ(edx, 0)
    FORM(1, 0, 4, div dword ptr [rbx])
    EQ(eax, 6)
    FORM(1, 0, 4, imul ecx, [rbx], -3)
    EQ(ecx, -21)
    FORM(1, 0, 4, imul ecx, [rbx])
    EQ(ecx, -147)

    // Shifts and bits.
    mov dword ptr [rbx], 0x81
    mov cl, 4
    FORM(1, 1, 4, shl dword ptr [rbx], 1)
    EQ(dword ptr [rbx], 0x102)
    FORM(1, 1, 4, shl dword ptr [rbx], cl)
    EQ(dword ptr [rbx], 0x1020)
    FORM(1, 1, 4, shr dword ptr [rbx], 4)
    EQ(dword ptr [rbx], 0x102)
    FORM(1, 1, 1, sar byte ptr [rbx], 1)
    EQ(dword ptr [rbx], 0x101)
    FORM(1, 1, 1, ror byte ptr [rbx], 1)
    IF(c)
    EQ(dword ptr [rbx], 0x180)
    FORM(1, 0, 4, bt dword ptr [rbx], 8)
    IF(c)
    FORM(1, 1, 4, bts dword ptr [rbx], 0)
    IF(nc)
    EQ(dword ptr [rbx], 0x181)
    FORM(1, 1, 4, btr dword ptr [rbx], 8)
    IF(c)
    FORM(1, 1, 4, btc dword ptr [rbx], 1)
    EQ(dword ptr [rbx], 0x83)
    mov eax, 35 // the next doubleword
    FORM(1, 1, 4, bts [rbx], eax)
    test dword ptr [rbx + 4], 8
    IF(nz)
    mov dword ptr [rbx], 0x180
    FORM(1, 0, 4, bsf eax, [rbx])
    EQ(eax, 7)
    FORM(1, 0, 4, bsr eax, [rbx])
    EQ(eax, 8)

    // Exchanges.
    mov dword ptr [rbx], 5
    mov eax, 6
    FORM(1, 1, 4, xchg [rbx], eax)
    EQ(eax, 5)
    EQ(dword ptr [rbx], 6)
    FORM(1, 1, 4, xadd [rbx], eax)
    EQ(eax, 6)
    EQ(dword ptr [rbx], 11)
    mov eax, 11
    mov ecx, 77
    FORM(1, 1, 4, lock cmpxchg [rbx], ecx)
    IF(z)
    EQ(dword ptr [rbx], 77)
    mov eax, 11
    cmpxchg [rbx], ecx
    IF(nz)
    EQ(eax, 77)
    EQ(dword ptr [rbx], 77)

    // Conditional stores and loads.
    cmp eax, eax
    FORM(0, 1, 1, sete byte ptr [rbx])
    EQ(byte ptr [rbx], 1)
    FORM(0, 1, 1, setc byte ptr [rbx])
    EQ(byte ptr [rbx], 0)
    mov dword ptr [rbx], 99
    cmp eax, eax
    FORM(1, 0, 4, cmove ecx, [rbx])
    EQ(ecx, 99)

    // The stack.
    mov dword ptr [rbx], 0x12345678
    mov dword ptr [rbx + 4], 0
    FORM(1, 0, 8, push qword ptr [rbx])
    pop rax
    EQ(rax, 0x12345678)
    push 0x55
    FORM(0, 1, 8, pop qword ptr [rbx])
    EQ(qword ptr [rbx], 0x55)
    EQ(esp, STACK)

    // Strings, up and down, with REP and without; the accesses of all rounds count.
    mov edi, DEVICE
    mov eax, 0x31323334
    mov ecx, 3
    FORM(0, 3, 4, rep stosd)
    EQ(ecx, 0)
    EQ(edi, DEVICE + 12)
    EQ(dword ptr [rbx + 8], 0x31323334)
    FORM(0, 1, 1, stosb)
    EQ(edi, DEVICE + 13)
    mov esi, DEVICE
    FORM(1, 0, 2, lodsw)
    EQ(ax, 0x3334)
    EQ(esi, DEVICE + 2)
    mov esi, DEVICE
    mov edi, DATA
    mov ecx, 2
    FORM(2, 0, 4, rep movsd)
    EQ(dword ptr [DATA + 4], 0x31323334)
    mov dword ptr [DATA], 0x41424344
    mov esi, DATA + 1
    mov edi, DEVICE + 1
    mov ecx, 2
    std
    FORM(0, 2, 1, rep movsb)
    cld
    EQ(byte ptr [rbx], 0x44)
    EQ(byte ptr [rbx + 1], 0x43)
    mov esi, DEVICE
    mov edi, DEVICE + 64
    FORM(1, 1, 8, movsq)
    EQ(byte ptr [rbx + 64], 0x44)
    mov edi, DEVICE
    mov al, 0x32
    mov ecx, 16
    repne scasb
    EQ(edi, DEVICE + 3)
    mov esi, DEVICE
    mov edi, DATA
    mov dword ptr [DATA], 0x31324344
    FORM(1, 0, 4, cmpsd)
    IF(e)

    // A register that counts its reads is read once by an instruction.
    mov eax, [COUNTER]
    mov ecx, [COUNTER]
    sub ecx, eax
    EQ(ecx, 1)

    // Accesses that cross from the device to nothing, or to memory, take two.
    mov dword ptr [rbx + 0xffc], 0
    mov dword ptr [DEVICE - 4], 0x01020304
    mov eax, [DEVICE - 2]
    EQ(ax, 0x0102)
    mov dword ptr [DEVICE - 2], 0xa1a2a3a4
    EQ(word ptr [DEVICE - 2], 0xa3a4)
    EQ(word ptr [DEVICE], 0xa1a2)

    PASS

device_reset:
    pushfq
    push rax
    push rdx
    OUT32(MMIO_READS, 0)
    pop rdx
    pop rax
    popfq
    ret

device_check:
    pushfq
    push rax
    push rdx
    IN32(MMIO_READS)
    cmp al, [want]
    jne 1f
    IN32(MMIO_WRITES)
    cmp al, [want + 1]
    jne 1f
    IN32(MMIO_SIZE)
    cmp al, [want + 2]
    jne 1f
    pop rdx
    pop rax
    popfq
    ret
1:  mov eax, [line]
    mov dx, FAILED
    out dx, eax
2:  hlt
    jmp 2b
.balign 8
want: .long 0
line: .long 0
#include "traps64.inc"
#include "tables.inc"
