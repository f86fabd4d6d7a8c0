// Memory that vanishes, comes back, moves, turns read-only, and is changed by the host.
#include "guest.inc"
.set SLOT, 3
.set ELSEWHERE, 0xc00000
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov ebx, SPARE
    mov ecx, 16
1:  mov [rbx], ebx
    add ebx, 0x1000
    loop 1b
    mov ebx, SPARE
    // The host sees what the guest writes and the guest what the host writes.
    DO(PEEK, SLOT, 0x1000, 0)
    EQ(eax, SPARE + 0x1000)
    DO(POKE, SLOT, 0x1004, 0x55aa55aa)
    EQ(dword ptr [SPARE + 0x1004], 0x55aa55aa)
    // Gone: reads give ones, writes are lost. Back: what was there is there.
    mov esi, 20
2:  DO(DELETE_SLOT, SLOT, 0, 0)
    EQ(dword ptr [SPARE + 0x1000], -1)
    mov dword ptr [SPARE + 0x1000], 7
    EQ(dword ptr [SPARE + 0x2000], -1)
    DO(CREATE_SLOT, SLOT, 0, SPARE)
    EQ(dword ptr [SPARE + 0x1000], SPARE + 0x1000)
    mov [SPARE + 0x3000], esi
    EQ(dword ptr [SPARE + 0x3000], esi)
    // Moved: there is nothing where it was.
    DO(MOVE_SLOT, SLOT, ELSEWHERE, 0)
    EQ(dword ptr [SPARE + 0x1000], -1)
    EQ(dword ptr [ELSEWHERE + 0x1000], SPARE + 0x1000)
    EQ(dword ptr [ELSEWHERE + 0x3000], esi)
    DO(MOVE_SLOT, SLOT, SPARE, 0)
    EQ(dword ptr [ELSEWHERE + 0x1000], -1)
    EQ(dword ptr [SPARE + 0x3000], esi)
    // Read-only: reads and execution work, writes are lost. And writable again.
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, READ_ONLY, SPARE)
    EQ(dword ptr [SPARE + 0x3000], esi)
    mov dword ptr [SPARE + 0x3000], 99
    EQ(dword ptr [SPARE + 0x3000], esi)
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, 0, SPARE)
    // The host says that its memory changes.
    DO(INVALIDATE, SLOT, 0, 0)
    EQ(dword ptr [SPARE + 0x1000], SPARE + 0x1000)
    inc dword ptr [SPARE + 0x4000]
    dec esi
    jnz 2b
    EQ(dword ptr [SPARE + 0x4000], SPARE + 0x4000 + 20)
    // Two slots do not overlap, and a slot that is not there is not deleted.
    DO_NOT(MOVE_SLOT, SLOT, 0x200000, 0)
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO_NOT(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, 0, SPARE)
    // Code runs from read-only memory, and from memory that moves under it.
    DO(POKE, 2, 0x10, 0x000077b8) // MOV EAX, 0x77
    DO(POKE, 2, 0x14, 0x0000c300) // RET
    mov eax, ROM + 0x10
    call rax
    EQ(eax, 0x77)
    mov dword ptr [ROM + 0x10], 0
    mov eax, ROM + 0x10
    call rax
    EQ(eax, 0x77)
    lock inc dword ptr [ROM + 0x20]
    EQ(dword ptr [ROM + 0x20], 0)
    PASS
#include "traps64.inc"
#include "tables.inc"
