// A tracked page that several vCPUs write to: each write is told of once, with what it wrote, and
// locked instructions stay whole, also while tracking comes and goes.
#include "guest.inc"
#include "vcpus.inc"
.set PAGE, 0x50000
.set STORES, 150
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov dword ptr [PAGE], 0
    DO(TRACK, PAGE >> 12, 0, 0)
    START_ALL
    jmp work
.balign 4
stop: .long 0

work:
    // Stores of 1 and more, each vCPU at its own place.
    mov ebx, STORES
1:  mov [r15 * 8 + PAGE + 0x100], ebx
    dec ebx
    jnz 1b
    MEET
    test r15d, r15d
    jnz 2f
    DO(TRACKED, 0, 0, 0)
    imul ecx, r14d, STORES
    EQ(eax, ecx)
    DO(TRACKED_SUM, 0, 0, 0)
    imul ecx, r14d, STORES * (STORES + 1) / 2
    EQ(eax, ecx)
2:  MEET
    // A counter of all: the values that are told of are all that it had.
    mov ebx, STORES
1:  lock inc dword ptr [PAGE]
    dec ebx
    jnz 1b
    MEET
    test r15d, r15d
    jnz 3f
    imul ecx, r14d, STORES
    EQ([PAGE], ecx)
    DO(TRACKED, 0, 0, 0)
    imul ecx, r14d, STORES * 2
    EQ(eax, ecx)
    DO(TRACKED_SUM, 0, 0, 0)
    imul ebx, r14d, STORES
    lea ecx, [rbx + 1]
    imul ecx, ebx
    shr ecx, 1
    imul ebx, r14d, STORES * (STORES + 1) / 2
    add ecx, ebx
    EQ(eax, ecx)
3:  MEET
    // Tracking comes and goes meanwhile. No increment is lost, and no tracked one untold.
    test r15d, r15d
    jz coming_and_going
    mov ebx, STORES * 40
1:  lock inc dword ptr [PAGE + 4]
    mov eax, 1
    lock xadd [PAGE + 8], eax
2:  mov eax, [PAGE + 12]
    lea ecx, [rax + 1]
    lock cmpxchg [PAGE + 12], ecx
    jne 2b
    dec ebx
    jnz 1b
    MEET
3:  hlt
    jmp 3b
coming_and_going:
    mov ebx, 30
1:  DO(UNTRACK, PAGE >> 12, 0, 0)
    mov ecx, 2000
2:  loop 2b
    DO(TRACK, PAGE >> 12, 0, 0)
    dec ebx
    jnz 1b
    MEET
    lea ecx, [r14 - 1]
    imul ecx, ecx, STORES * 40
    EQ([PAGE + 4], ecx)
    EQ([PAGE + 8], ecx)
    EQ([PAGE + 12], ecx)
    PASS
#include "traps64.inc"
#include "tables.inc"
