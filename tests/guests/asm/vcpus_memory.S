// Memory that comes, goes, moves and turns read-only by the first vCPU's command while the others
// read and write it. What they read was there before or is there now, and no write to memory that
// cannot be written gets lost without the device's owner hearing of it.
#include "guest.inc"
#include "vcpus.inc"
.set SLOT, 3
.set ELSEWHERE, 0xc00000
.set PAGES, 16
.set ROUNDS, 30
.set STORES, 100
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // Each page begins with its number and one more.
    mov ebx, SPARE
    mov ecx, 1
1:  mov [rbx], ecx
    add ebx, 0x1000
    inc ecx
    cmp ecx, PAGES
    jbe 1b
    START_ALL

    mov ebp, ROUNDS
1:  DO(DELETE_SLOT, SLOT, 0, 0)
    EQ(dword ptr [SPARE + 0x1000], -1)
    DO(CREATE_SLOT, SLOT, 0, SPARE)
    EQ(dword ptr [SPARE + 0x1000], 2)
    DO(MOVE_SLOT, SLOT, ELSEWHERE, 0)
    EQ(dword ptr [SPARE + 0x2000], -1)
    EQ(dword ptr [ELSEWHERE + 0x2000], 3)
    DO(MOVE_SLOT, SLOT, SPARE, 0)
    EQ(dword ptr [ELSEWHERE + 0x2000], -1)
    EQ(dword ptr [SPARE + 0x2000], 3)
    DO(INVALIDATE, SLOT, 0, 0)
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, READ_ONLY, SPARE)
    EQ(dword ptr [SPARE + 0x3000], 4)
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, 0, SPARE)
    // What the host writes is seen by all, in order.
    DO(POKE, SLOT, 0x800, ebp)
    dec ebp
    jnz 1b
    mov dword ptr [stop], 1
    MEET

    // Read-only: each write is one to a device, and changes nothing.
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, READ_ONLY, SPARE)
    mov edx, STRAYS
    out dx, eax
    MEET
    MEET
    IN32(STRAYS)
    lea ecx, [r14 - 1]
    imul ecx, ecx, STORES
    EQ(eax, ecx)
    DO(PEEK, SLOT, 0x4000, 0)
    EQ(eax, 5)
    EQ(dword ptr [SPARE + 0x4000], 5)
    // Writable again while they write on: from now on nothing is lost.
    DO(DELETE_SLOT, SLOT, 0, 0)
    DO(CREATE_SLOT, SLOT, 0, SPARE)
    mov dword ptr [SPARE + 0x5000], 0
    MEET
    mov ebx, 20
1:  DO(INVALIDATE, SLOT, 0, 0)
    DO(SET_FLAGS, SLOT, LOG_DIRTY, 0)
    DO(SET_FLAGS, SLOT, 0, 0)
    dec ebx
    jnz 1b
    MEET
    lea ecx, [r14 - 1]
    imul ecx, ecx, STORES * 100
    EQ(dword ptr [SPARE + 0x5000], ecx)
    PASS

.balign 4
stop: .long 0

work:
    mov r13d, r15d
    shl r13d, 4 // my own place in each page
    xor r12d, r12d // what I wrote there last
    mov r11d, ROUNDS + 1 // what the host wrote last
1:  xor ebx, ebx
2:  mov edi, ebx
    shl edi, 12
    // The number of the page, or ones where there is none. At both addresses.
    lea ecx, [rbx + 1]
    mov eax, [rdi + SPARE]
    cmp eax, -1
    je 3f
    EQ(eax, ecx)
3:  mov eax, [rdi + ELSEWHERE]
    cmp eax, -1
    je 4f
    EQ(eax, ecx)
4:  // What I write is there, or it is what I wrote before, or there is nothing. Nobody else
    // writes there.
    lea esi, [rdi + r13 + SPARE + 0x100]
    inc r12d
    mov [rsi], r12d
    mov eax, [rsi]
    cmp eax, -1
    je 5f
    cmp eax, r12d
    IF(be)
5:  // The host counts down.
    mov eax, [SPARE + 0x800]
    test eax, eax
    jle 6f
    cmp eax, r11d
    IF(be)
    mov r11d, eax
6:  inc ebx
    cmp ebx, PAGES
    jb 2b
    cmp dword ptr [stop], 0
    je 1b
    MEET
    MEET
    mov ebx, STORES
1:  mov dword ptr [SPARE + 0x4000], ebx
    dec ebx
    jnz 1b
    MEET
    MEET
    mov ebx, STORES * 100
1:  lock inc dword ptr [SPARE + 0x5000]
    dec ebx
    jnz 1b
    MEET
    sti
2:  hlt
    jmp 2b
#include "traps64.inc"
#include "tables.inc"
