// What exits cost: each loop is timed by the time-stamp counter, and the empty loop taken off.
#include "guest.inc"
.set NUMBER, 0x570         // 32 bits: which loop
.set COST, 0x574           // 32 bits: ticks per round
.set ROUNDS, 1000
.set PAGES, 512
.set FRESH, 0x1000000      // slot 4, with a dirty log: mapped page by page

#define START rdtsc; mov r8d, eax
#define TICKS(rounds) rdtsc; sub eax, r8d; xor edx, edx; mov ecx, rounds; div ecx
#define LOOP(number, ...) \
    mov ebp, ROUNDS; START; 1: __VA_ARGS__; dec ebp; jnz 1b; TICKS(ROUNDS); \
    sub eax, r9d; TELL(number)
#define TELL(number) mov ebx, eax; OUT32(NUMBER, number); OUT32(COST, ebx)
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    xor r9d, r9d
    // Twice: the first round warms everything up.
    mov r10d, 2
2:  xor r9d, r9d
    LOOP(0, nop)
    mov r9d, ebx
    LOOP(1, xor eax, eax; cpuid)
    mov edx, 0x580
    LOOP(2, out dx, al)
    mov edx, 0x580
    LOOP(3, in al, dx)
    mov esi, DEVICE
    LOOP(4, mov [rsi], eax)
    LOOP(5, mov eax, [rsi])
    mov ecx, 0x1b
    LOOP(6, mov ecx, 0x1b; rdmsr)
    sti
    LOOP(7, hlt)
    cli
    dec r10d
    jnz 2b
    mov esi, FRESH
    mov ebp, PAGES
    START
3:  mov al, [rsi]
    add esi, 0x1000
    dec ebp
    jnz 3b
    TICKS(PAGES)
    TELL(8)
    mov esi, FRESH
    mov ebp, PAGES
    START
4:  mov [rsi], al
    add esi, 0x1000
    dec ebp
    jnz 4b
    TICKS(PAGES)
    TELL(9)
    PASS
#include "traps64.inc"
#include "tables.inc"
