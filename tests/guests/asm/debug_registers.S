// Debug registers keep what is written, stop where they are told, and stay this guest's own.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // As after a reset.
    mov rax, dr6
    EQ(eax, 0xffff0ff0)
    mov rax, dr7
    EQ(eax, 0x400)
    rdtsc
    mov ebx, eax
    shl rbx, 8
    mov dr0, rbx
    lea rax, [rbx + 8]
    mov dr1, rax
    lea rax, [rbx + 16]
    mov dr2, rax
    lea rax, [rbx + 24]
    mov dr3, rax
    mov ebp, 100
1:  OUT32(SCRATCH, ebp)
    mov rax, dr0
    EQ(rax, rbx)
    mov rax, dr1
    lea rcx, [rbx + 8]
    EQ(rax, rcx)
    mov rax, dr2
    lea rcx, [rbx + 16]
    EQ(rax, rcx)
    mov rax, dr3
    lea rcx, [rbx + 24]
    EQ(rax, rcx)
    dec ebp
    jnz 1b
    // Reserved bits: those of the upper half raise #GP, DR4 and DR5 are #UD with CR4.DE.
    mov rax, 1 << 32
    NOT_ON(QEMU, 2f)
    mov rax, 1 << 32
    TRAP(13, 0, mov dr7, rax)
    TRAP(13, 0, mov dr6, rax)
2:  mov rax, cr4
    or eax, 8
    mov cr4, rax
    TRAP(6, 0, .byte 0x0f, 0x21, 0xe0) // MOV RAX, DR4
    and eax, ~8
    // Execution and data breakpoints.
    mov eax, offset stop_here
    mov dr0, rax
    mov eax, DATA
    mov dr1, rax
    mov eax, 0x00d00405 // 0: execution; 1: four bytes, writes
    mov dr7, rax
    xor eax, eax
    mov dr6, rax
    mov word ptr [idt + 1 * 16], offset debug
    nop
stop_here:
    nop
    NOT_ON(QEMU | BOCHS_SVM, 3f) // no breakpoints in guests there
    EQ(dword ptr [stops], 1)
    EQ(dword ptr [causes], 1)
    mov dword ptr [DATA], 5
    nop
    EQ(dword ptr [stops], 2)
    EQ(dword ptr [causes], 2)
3:  mov eax, 0x400
    mov dr7, rax
    mov dword ptr [DATA], 6
    // General detect: touching a debug register raises #DB and switches itself off.
    mov dword ptr [stops], 0
    mov eax, 0x2400
    mov dr7, rax
    mov rcx, dr0
    EQ(dword ptr [stops], 1)
    PASS
debug:
    push rax
    inc dword ptr [stops]
    mov rax, dr6
    and eax, 0xf
    mov [causes], eax
    mov rax, 0xffff0ff0
    mov dr6, rax
    bts dword ptr [rsp + 24], 16 // RF
    pop rax
    iretq
.balign 8
stops: .long 0
causes: .long 0
#include "traps64.inc"
#include "tables.inc"
