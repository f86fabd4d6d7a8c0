// Several vCPUs: shared counters, kicks, waiting for each other, and interrupts from one to another.
#include "guest.inc"
#include "vcpus.inc"
.set COUNTS, 2000
.set KICKS, 8
.set ROUNDS, 20
.set IPI, 0x60             // and the vCPU's number
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov eax, offset interrupted
    mov edi, offset idt + IPI * 16
    mov ecx, 4
1:  mov [rdi], ax
    add eax, 16
    add edi, 16
    loop 1b
    IN32(QUIRKS)
    mov [quirks], eax
    START_ALL
    jmp work

.balign 64
locked: .quad 0
added: .quad 0
exchanged: .quad 0
spun: .quad 0
spin_lock: .long 0
.balign 64
beats: .skip 4 * 64
got: .skip 4 * 64
stop: .long 0
turn: .long 0
quirks: .long 0

work:
    // Counters that all of them change, by every kind of locked instruction, with kicks and exits
    // in between. None is lost.
    mov ebx, COUNTS
1:  lock inc qword ptr [locked]
    mov eax, 3
    lock xadd [added], rax
    mov rax, [exchanged]
2:  lea rcx, [rax + 1]
    lock cmpxchg [exchanged], rcx
    jnz 2b
3:  lock bts dword ptr [spin_lock], 0
    jnc 4f
    pause
    jmp 3b
4:  inc qword ptr [spun]
    mov dword ptr [spin_lock], 0
    test ebx, 0xff
    jnz 5f
    lea edi, [r15 + 1]
    cmp edi, r14d
    jb 6f
    xor edi, edi
6:  DO(KICK_CPU, edi, 0, 0)
    xor eax, eax
    push rbx
    cpuid
    pop rbx
5:  dec ebx
    jnz 1b
    MEET
    imul eax, r14d, COUNTS
    EQ([locked], rax)
    EQ([exchanged], rax)
    EQ([spun], rax)
    imul eax, eax, 3
    EQ([added], rax)
    MEET

    // The first kicks the others, who do nothing that leaves the guest; each goes on afterwards.
    mov edi, r15d
    shl edi, 6
    test r15d, r15d
    jz kick
1:  inc qword ptr [rdi + beats]
    cmp dword ptr [stop], 0
    je 1b
    jmp kicked
kick:
    mov ebp, KICKS
1:  mov ebx, 1
2:  DO(KICK_CPU, ebx, 0, 0)
    mov edi, ebx
    shl edi, 6
    mov rax, [rdi + beats]
3:  cmp [rdi + beats], rax
    je 3b
    inc ebx
    cmp ebx, r14d
    jb 2b
    dec ebp
    jnz 1b
    mov dword ptr [stop], 1
kicked:
    MEET

    // Each wakes the next with an interrupt and halts until the last has woken it.
    xor ebx, ebx // how often I was woken
    mov ebp, ROUNDS
    test r15d, r15d
    jz pass_on
await:
    cli
    lea eax, [rbx + 1]
    mov edi, r15d
    shl edi, 6
1:  cmp [rdi + got], eax
    jae 2f
    sti
halt:
    hlt
    cli
    jmp 1b
2:  mov ebx, eax
    EQ([rdi + got], ebx)
    // Nobody else is on the way.
    EQ([turn], r15d)
    dec ebp
    jz 3f
pass_on:
    lea edi, [r15 + 1]
    cmp edi, r14d
    jb 1f
    xor edi, edi
1:  mov [turn], edi
    lea esi, [rdi + IPI]
    DO(INTERRUPT_CPU, edi, esi, 0)
    jmp await
3:  test r15d, r15d
    jz 4f
    // The last interrupt goes on to the first.
    lea edi, [r15 + 1]
    cmp edi, r14d
    jb 1f
    xor edi, edi
1:  mov [turn], edi
    lea esi, [rdi + IPI]
    DO(INTERRUPT_CPU, edi, esi, 0)
4:  sti
    MEET

    // All at once, interrupts on: everybody interrupts everybody, who spins for it.
    mov edi, r15d
    shl edi, 6
    mov qword ptr [rdi + got], 0
    MEET
    mov ebp, ROUNDS
1:  xor ebx, ebx
2:  cmp ebx, r15d
    je 3f
    lea esi, [rbx + IPI]
    DO(INTERRUPT_CPU, ebx, esi, 0)
3:  inc ebx
    cmp ebx, r14d
    jb 2b
    mov edi, r15d
    shl edi, 6
    // Interrupts with one vector that wait at the same time are one, so at least one comes.
4:  cmp qword ptr [rdi + got], 0
    je 4b
    dec ebp
    jnz 1b
    MEET
    test r15d, r15d
    jnz idle
    PASS
idle:
    hlt
    jmp idle

.balign 16
interrupted:
.set number, 0
.rept 4
    .balign 16
    lock inc qword ptr [got + number * 64]
    jmp 1f
    .set number, number + 1
.endr
    // VMRUN of QEMU 7.2 forgets that the guest is in the shadow of STI. So an interrupt may come just
    // before the HLT that waits for it, which is left out then.
1:  test byte ptr [quirks], QEMU
    jz 2f
    cmp qword ptr [rsp], offset halt
    jne 2f
    inc qword ptr [rsp]
2:  iretq
#include "traps64.inc"
#include "tables.inc"
