// x87, SSE and AVX registers stay what they are over many exits, next to another guest.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    fninit
    // A number that is this run's own.
    rdtsc
    or eax, 1
    mov ebx, eax
    movd xmm0, eax
    pshufd xmm1, xmm0, 0
    .irp n, 2,3,4,5,6,7,8,9,10,11,12,13,14,15
    movdqa xmm\n, xmm1
    paddd xmm\n, xmm1
    .endr
    mov [DATA], ebx
    fild dword ptr [DATA]
    fld1
    // AVX, where there is some.
    xor r8d, r8d
    mov eax, 1
    cpuid
    and ecx, 0x14000000
    cmp ecx, 0x14000000
    jne 1f
    mov rax, cr4
    bts eax, 18
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    mov r8d, 1
    mov ebx, [DATA]
    vmovd xmm3, ebx
    vpshufd xmm3, xmm3, 0
    vinsertf128 ymm3, ymm3, xmm3, 1
    vinsertf128 ymm4, ymm4, xmm3, 1
1:  mov dword ptr [DATA + 4], 0x1fa0
    ldmxcsr [DATA + 4]
    mov word ptr [DATA + 8], 0x27f
    fldcw [DATA + 8]
    mov ebx, [DATA]
    mov ebp, 300
2:  // Exits of all kinds.
    OUT32(SCRATCH, ebp)
    xor eax, eax
    cpuid
    mov eax, [DEVICE]
    OUT8(INJECT_LATER, 0x40)
    sti
    hlt
    cli
    mov ebx, [DATA]
    // All is as it was.
    movd eax, xmm1
    EQ(eax, ebx)
    lea ecx, [rbx * 2]
    .irp n, 2,5,6,7,8,9,10,11,12,13,14,15
    movdqa xmm0, xmm\n
    psrldq xmm0, 12
    movd eax, xmm0
    EQ(eax, ecx)
    .endr
    stmxcsr [DATA + 12]
    EQ(dword ptr [DATA + 12], 0x1fa0)
    fnstcw [DATA + 16]
    EQ(word ptr [DATA + 16], 0x27f)
    fld st(1)
    fistp dword ptr [DATA + 20]
    EQ(dword ptr [DATA + 20], ebx)
    test r8d, r8d
    jz 3f
    vextractf128 xmm0, ymm4, 1
    vmovd eax, xmm0
    EQ(eax, ebx)
    vextractf128 xmm0, ymm3, 1
    vpsrldq xmm0, xmm0, 12
    vmovd eax, xmm0
    EQ(eax, ebx)
    xor ecx, ecx
    xgetbv
    EQ(eax, 7)
3:  dec ebp
    jnz 2b
    PASS
#include "traps64.inc"
#include "tables.inc"
