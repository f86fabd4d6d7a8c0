// Tracked pages: every write to one is told of, with its bytes, whatever makes it.
#include "guest.inc"
.set PAGE, 0x50000
// A write that the tracker must be told of: once, of so many bytes there, and their value.
#define TOLD(length_, offset_, value_, ...) \
    __VA_ARGS__; \
    inc dword ptr [count]; \
    DO(TRACKED, 0, 0, 0); EQ(eax, [count]); \
    DO(TRACKED_LENGTH, 0, 0, 0); EQ(eax, length_); \
    DO(TRACKED_ADDRESS, 0, 0, 0); EQ(eax, PAGE + offset_); \
    DO(TRACKED_BYTES, 0, 0, 0); EQ(eax, value_)
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov dword ptr [PAGE], 0x11111111
    DO(TRACK, PAGE >> 12, 0, 0)
    mov ebx, PAGE
    // Reads are not told of.
    EQ(dword ptr [rbx], 0x11111111)
    DO(TRACKED, 0, 0, 0)
    EQ(eax, 0)
    TOLD(4, 0, 0x12345678, mov dword ptr [rbx], 0x12345678)
    EQ(dword ptr [rbx], 0x12345678)
    TOLD(1, 5, 0x77, mov byte ptr [rbx + 5], 0x77)
    TOLD(2, 6, 0x8899, mov word ptr [rbx + 6], 0x8899)
    mov rcx, 0x1122334455667788
    TOLD(8, 8, 0x55667788, mov [rbx + 8], rcx)
    TOLD(4, 0, 0x12345679, inc dword ptr [rbx])
    TOLD(4, 0, 0x1234567a, lock inc dword ptr [rbx])
    mov ecx, 3
    TOLD(4, 0, 3, xchg [rbx], ecx)
    EQ(ecx, 0x1234567a)
    TOLD(4, 0, 0x1234567d, xadd [rbx], ecx)
    EQ(ecx, 3)
    mov edi, PAGE + 16
    mov al, 0x5a
    TOLD(1, 16, 0x5a, stosb)
    mov rbp, rsp
    mov esp, PAGE + 0x100
    mov rax, 0xabcdef
    push rax
    mov rsp, rbp
    TOLD(8, 0xf8, 0xabcdef, nop)
    // A page beside it is not told of.
    DO(TRACKED, 0, 0, 0)
    mov ecx, eax
    mov dword ptr [PAGE - 8], 1
    mov dword ptr [PAGE + 0x1000], 1
    DO(TRACKED, 0, 0, 0)
    EQ(eax, ecx)
    // Twice tracked, once untracked: still told of. Untracked: not any more.
    DO(TRACK, PAGE >> 12, 0, 0)
    DO(UNTRACK, PAGE >> 12, 0, 0)
    TOLD(4, 0x30, 5, mov dword ptr [rbx + 0x30], 5)
    DO(UNTRACK, PAGE >> 12, 0, 0)
    mov dword ptr [rbx + 0x30], 6
    DO(TRACKED, 0, 0, 0)
    EQ(eax, [count])
    EQ(dword ptr [rbx + 0x30], 6)
    DO_NOT(UNTRACK, PAGE >> 12, 0, 0)
    PASS
.balign 8
count: .long 0
#include "traps64.inc"
#include "tables.inc"
