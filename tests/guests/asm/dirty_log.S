// The dirty log: every page that is written is in it, also while it is fetched again and again.
#include "guest.inc"
.set SLOT, 1
.set BASE, 0xb0000
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // Pages are mapped and written before the log begins: those are not in it.
    mov edi, BASE
    mov ecx, 64
1:  mov [rdi], ecx
    add edi, 0x1000
    loop 1b
    DO(SET_FLAGS, SLOT, LOG_DIRTY, 0)
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 0)
    // Each page that is written is there, once, and no page that is read.
    mov dword ptr [BASE + 0x1000 * 3], 1
    mov dword ptr [BASE + 0x1000 * 5], 1
    mov dword ptr [BASE + 0x1000 * 5 + 8], 1
    mov eax, [BASE + 0x1000 * 7]
    mov dword ptr [BASE + 0x1000 * 100 - 2], 1 // crosses
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 4)
    DO(IS_DIRTY, 3, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, 5, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, 7, 0, 0)
    EQ(eax, 0)
    DO(IS_DIRTY, 99, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, 100, 0, 0)
    EQ(eax, 1)
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 0)
    // Again and again: a different page each time.
    xor ebx, ebx
2:  mov edi, ebx
    shl edi, 12
    lock inc dword ptr [rdi + BASE]
    xchg [rdi + BASE + 4], eax
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, ebx, 0, 0)
    EQ(eax, 1)
    inc ebx
    cmp ebx, 40
    jb 2b
    // What the CPU itself writes: accessed bits, an interrupt's stack.
    mov rbp, rsp
    mov dword ptr [resume], offset 3f
    mov rsp, BASE + 0x1000 * 200
    int3
3:  mov rsp, rbp
    mov dword ptr [resume], 0
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, 199, 0, 0)
    EQ(eax, 1)
    // What the emulator writes: INS, and MOVS from a device.
    mov edi, BASE + 0x1000 * 210 - 4
    mov ecx, 2
    mov dx, FIFO
    rep insd
    mov esi, DEVICE
    mov edi, BASE + 0x1000 * 220
    movsd
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 3)
    DO(IS_DIRTY, 209, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, 210, 0, 0)
    EQ(eax, 1)
    DO(IS_DIRTY, 220, 0, 0)
    EQ(eax, 1)
    // The log ends; writes go on and nothing is fetched.
    DO(SET_FLAGS, SLOT, 0, 0)
    DO_NOT(FETCH_LOG, SLOT, 0, 0)
    mov dword ptr [BASE], 77
    EQ(dword ptr [BASE], 77)
    PASS
#include "traps64.inc"
#include "tables.inc"
