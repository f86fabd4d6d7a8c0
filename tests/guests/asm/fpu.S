// x87, SSE, AVX and larger state, MXCSR and XCR0 belong to this guest alone. Its twin has other
// values in the same registers and runs on the same CPU in turns; the host has its own.
#include "guest.inc"
.set FILL, DATA             // what was put into the registers
.set SEEN, DATA + 0x2000    // what was in them later
.set FRESH, 0x100000        // pages that nobody has touched
.set ROUNDS, 24
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    IN32(TWIN)
    mov r15d, eax
    lea r13d, [rax + 12345] // the seed of what is put in
    // Nothing of the host or of the twin is there at first.
    fxsave64 [SEEN]
    EQ(dword ptr [SEEN + 24], 0x1f80)
    xor eax, eax
    mov ecx, 16 * 16
    mov edi, SEEN + 160
    repe scasb
    IF(e)
    // The parts beyond SSE whose every bit is free, where there are such.
    xor r12d, r12d
    mov eax, 1
    cpuid
    bt ecx, 26
    jnc 1f
    mov rax, cr4
    bts rax, 18
    mov cr4, rax
    mov eax, 0xd
    xor ecx, ecx
    cpuid
    xor ecx, ecx
    xor edx, edx
    mov r12d, eax
    NO_TRAP(xsetbv)
    // AVX-512 without AVX, AVX without SSE, nothing, and what there is not: the old value stays.
    mov eax, 5
    TRAP(13, 0, xsetbv)
    xor eax, eax
    TRAP(13, 0, xsetbv)
    mov eax, 0xe3
    TRAP(13, 0, xsetbv)
    mov edx, 0x80000000
    mov eax, r12d
    TRAP(13, 0, xsetbv)
    xgetbv
    EQ(eax, r12d)
    EQ(edx, 0)
    call fresh_parts
1:  // MXCSR has reserved bits, which QEMU ignores.
    NOT_ON(QEMU, 1f)
    mov dword ptr [SEEN], 0xffff1f80
    TRAP(13, 0, ldmxcsr [SEEN])
1:
    // CR0.TS.
    mov rax, cr0
    or eax, 8
    mov cr0, rax
    TRAP(7, 0, movaps xmm0, xmm1)
    TRAP(7, 0, fld1)
    clts

round:
    xor r14d, r14d
step:
    call fill_all
    test r12d, r12d
    jz 2f
    mov eax, r12d
    xor edx, edx
    xrstor64 [FILL]
    // Now and then the guest has less switched on than it has state.
    bt r13d, 8
    jnc 3f
    mov eax, 3
    lea eax, [rax + r15 * 4]
    and eax, r12d
    xor ecx, ecx
    xsetbv
    mov r11d, eax
    jmp 3f
2:  fxrstor64 [FILL]
3:  mov eax, r14d
    call [disturb + rax * 8]
    test r12d, r12d
    jz 4f
    bt r13d, 8
    jnc 5f
    xor ecx, ecx
    xgetbv
    EQ(eax, r11d)
    mov eax, r12d
    xsetbv
5:  xor ecx, ecx
    xgetbv
    EQ(eax, r12d)
    xor edx, edx
    xsave64 [SEEN]
    jmp 6f
4:  fxsave64 [SEEN]
6:  call compare_all
    inc r14d
    cmp r14d, (disturb_end - disturb) / 8
    jb step
    inc dword ptr [rounds]
    cmp dword ptr [rounds], ROUNDS
    jb round
    PASS

.balign 8
// Ways to leave the guest, some to the owner, who runs the twin next, some not.
disturb: .quad yield, nothing, by_cpuid, by_device, by_halt, by_page, by_msr, by_string, by_loop
disturb_end:
rounds: .long 0

yield:
    mov edx, TWIN
    out dx, eax
    ret
by_cpuid:
    xor eax, eax
    cpuid
nothing:
    ret
by_device:
    mov eax, [DEVICE]
    mov [DEVICE + 8], eax
    ret
by_halt:
    OUT8(INJECT_LATER, 0x40)
    sti
    hlt
    cli
    ret
by_page:
    mov eax, [fresh]
    inc byte ptr [rax]
    add dword ptr [fresh], 0x1000
    ret
by_msr:
    mov ecx, 0xc0000081
    rdmsr
    wrmsr
    ret
by_string:
    mov esi, SEEN
    mov edx, FIFO
    mov ecx, 4
    rep outsd
    ret
by_loop:
    mov ecx, 20000
1:  loop 1b
    ret
.balign 8
fresh: .quad FRESH

// An image with free bytes from the seed, and valid ones where they are not free.
fill_all:
    mov edi, FILL
    mov ecx, 576 / 4
    xor eax, eax
    rep stosd
    mov edi, FILL + 32
    mov ecx, 384
    call fill
    mov ecx, 7 * 16
1:  mov dword ptr [rcx + FILL + 32 + 12], eax
    mov word ptr [rcx + FILL + 32 + 10], ax
    sub ecx, 16
    jns 1b
    // Rounding as the seed has it.
    mov ecx, r13d
    shr ecx, 28
    and ecx, 3
    shl ecx, 10
    lea eax, [rcx + 0x37f]
    mov [FILL], eax
    mov byte ptr [FILL + 4], 0xff // no register is empty
    shl ecx, 3
    lea eax, [rcx + 0x1f80]
    mov [FILL + 24], eax
    test r12d, r12d
    jz 9f
    mov [FILL + 512], r12d
    mov ebx, offset fill_part
    jmp parts
fill_part:
    lea edi, [rbx + FILL]
fill:
    imul r13d, r13d, 1664525
    add r13d, 1013904223
    mov [edi], r13d
    add edi, 4
    sub ecx, 4
    ja fill
    xor eax, eax
9:  ret

compare_all:
    mov ecx, 5
    xor ebx, ebx
    call compare_part
    mov ecx, 4
    mov ebx, 24
    call compare_part
    mov ecx, 384
    mov ebx, 32
    call compare_part
    mov ebx, offset compare_part
    test r12d, r12d
    jnz parts
    ret
compare_part:
    lea esi, [rbx + FILL]
    lea edi, [rbx + SEEN]
    repe cmpsb
    IF(e)
    ret

// Whether every part is as after a reset.
fresh_parts:
    mov edi, FILL
    mov ecx, 0x4000 / 4
    xor eax, eax
    rep stosd
    mov eax, r12d
    xor edx, edx
    xsave64 [SEEN]
    mov ebx, offset compare_part

// Calls what EBX says for each part: EBX is its offset in the image, ECX its bytes.
parts:
    mov r10d, ebx
    mov r9d, 2
1:  bt r12d, r9d
    jnc 2f
    mov eax, 0xd
    mov ecx, r9d
    cpuid
    mov ecx, eax
    call r10
2:  inc r9d
    cmp r9d, 8
    jb 1b
    ret
#include "traps64.inc"
#include "tables.inc"
