// DR0 to DR3, DR6 and DR7 belong to this guest alone; its twin has other values and runs on the
// same CPU in turns. Breakpoints, single steps and guarded registers raise #DB and say why.
#include "guest.inc"
// The causes that DR6 tells, which are then forgotten. Bochs as an AMD CPU leaves nothing there
// when #DB is intercepted. Clobbers EAX, EDX.
#define CAUSES(bits) \
    test byte ptr [quirks], BOCHS_SVM; jnz 775f; mov rax, dr6; and eax, 0xe00f; EQ(eax, bits); \
    775: xor eax, eax; mov dr6, rax
// DR7, with nothing but these bits and the one that is always set. Clobbers EAX.
#define DR7(bits) mov eax, 0x400 + (bits); mov dr7, rax
#define DR(n, value) mov eax, value; mov dr##n, rax
#define DR64(n, value) mov rax, value; mov dr##n, rax
#define YIELD mov edx, TWIN; out dx, eax
.set WATCHED, DATA + 0x100
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    IN32(TWIN)
    mov r15d, eax
    IN32(QUIRKS)
    mov [quirks], eax
    // Nothing of the host or of the twin is there at first.
    mov rax, dr6
    mov ecx, 0xffff0ff0
    EQ(rax, rcx)
    mov rax, dr7
    EQ(rax, 0x400)
    mov rax, dr0
    mov rbx, dr1
    or rax, rbx
    mov rbx, dr2
    or rax, rbx
    mov rbx, dr3
    or rax, rbx
    EQ(rax, 0)

    // What is put there stays there, whoever runs in between.
    mov r14, 0x0000123456789abc
    lea r14, [r14 + r15 * 8]
    mov ebp, 20
1:  mov dr0, r14
    lea rax, [r14 + 1]
    mov dr1, rax
    not rax
    mov dr2, rax
    lea rax, [r14 + 3]
    mov dr3, rax
    mov eax, ebp
    and eax, 0xf
    mov dr6, rax
    bt ebp, 0
    jc 2f
    YIELD
2:  xor eax, eax
    cpuid
    mov rax, dr0
    EQ(rax, r14)
    mov rax, dr1
    lea rbx, [r14 + 1]
    EQ(rax, rbx)
    mov rax, dr2
    not rbx
    EQ(rax, rbx)
    mov rax, dr3
    lea rbx, [r14 + 3]
    EQ(rax, rbx)
    mov rax, dr6
    mov ebx, ebp
    and ebx, 0xf
    mov ecx, 0xffff0ff0
    or ebx, ecx
    EQ(rax, rbx)
    add r14, 0x1000
    dec ebp
    jnz 1b

    // Bits that do not change, and those that must be zero.
    mov eax, -1
    mov dr6, rax
    mov rax, dr6
    mov ecx, 0xffffefff
    EQ(rax, rcx)
    xor eax, eax
    mov dr6, rax
    mov rax, dr6
    mov ecx, 0xffff0ff0
    EQ(rax, rcx)
    mov eax, 0xffffdf00 // no breakpoint is on
    mov dr7, rax
    mov rax, dr7
    mov ecx, 0xffff0700
    EQ(rax, rcx)
    xor eax, eax
    mov dr7, rax
    mov rax, dr7
    EQ(rax, 0x400)
    mov rbx, 1 << 32
    TRAP(13, 0, mov dr6, rbx)
    TRAP(13, 0, mov dr7, rbx)
    // DR4 and DR5 are other names for DR6 and DR7, unless CR4.DE.
    mov eax, 0xf
    .byte 0x0f, 0x23, 0xe0 // MOV DR4, RAX
    mov rax, dr6
    mov ecx, 0xffff0fff
    EQ(rax, rcx)
    .byte 0x0f, 0x21, 0xe8 // MOV RAX, DR5
    EQ(rax, 0x400)
    mov rax, cr4
    or eax, 8
    mov cr4, rax
    TRAP(6, 0, .byte 0x0f, 0x23, 0xe0)
    TRAP(6, 0, .byte 0x0f, 0x21, 0xe8)
    mov rax, cr4
    and eax, ~8
    mov cr4, rax
    xor eax, eax
    mov dr6, rax

    // DR7.GD guards them all, itself included, once.
    DR7(0x2000)
    YIELD
    TRAP(1, 0, mov rax, dr0)
    mov rax, dr7
    EQ(rax, 0x400)
    CAUSES(0x2000)
    DR7(0x2000)
    TRAP(1, 0, mov dr7, rax)
    mov rax, dr7
    EQ(rax, 0x400)
    CAUSES(0x2000)

    // Single step, also over instructions that the host executes: a trap behind each. Bochs as an
    // AMD CPU raises one more, in the host.
    NOT_ON(BOCHS_SVM, 2f)
    mov word ptr [idt + 16], offset count_steps
    mov dword ptr [steps], 0
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
    xor eax, eax
    cpuid
    mov edx, TWIN
    out dx, eax
    mov eax, [DEVICE]
    mov [DEVICE], eax
    mov rax, dr7
    pushfq
    and dword ptr [rsp], ~0x100
    popfq
    mov word ptr [idt + 16], offset stubs + 16
    EQ(dword ptr [steps], 11)
    EQ(dword ptr [bad_causes], 0)
    xor eax, eax
    mov dr6, rax
2:

    // QEMU does not know INT1, and forgets breakpoints when it enters a guest.
    NOT_ON(QEMU, done)
    // INT1: behind it.
    TRAP_AT(1, 0, offset 1b, .byte 0xf1; 1: nop)
    // Breakpoints.
    // Execution: a fault at the instruction. RF takes the handler's return past it.
    DR(0, offset 2f)
    DR7(1)
    YIELD
    TRAP_AT(1, 0, offset 2b, 2: nop)
    test byte ptr [quirks], BOCHS // which does not set RF when #DB is intercepted
    jnz 2f
    bt dword ptr [fault_flags], 16
    IF(c)
2:  CAUSES(1)
    DR7(0)
    mov byte ptr [sets_rf], 1
    mov word ptr [idt + 16], offset count_steps
    mov dword ptr [steps], 0
    DR(3, offset 3f)
    DR7(0x80) // G3
    mov ecx, 3
2:  push rcx
    xor eax, eax
3:  cpuid // leaves the guest
    pop rcx
    loop 2b
    DR7(0)
    EQ(dword ptr [steps], 3)
    mov word ptr [idt + 16], offset stubs + 16
    CAUSES(8)
    // Data: a trap behind the instruction. Writes to four bytes.
    DR(1, WATCHED)
    DR7(0xd << 20 | 4)
    YIELD
    NO_TRAP(mov eax, [WATCHED])
    NO_TRAP(mov [WATCHED + 4], eax)
    NO_TRAP(mov [WATCHED - 4], eax)
    TRAP_AT(1, 0, offset 2b, mov [WATCHED + 3], al; 2: nop)
    CAUSES(2)
    TRAP_AT(1, 0, offset 2b, inc dword ptr [WATCHED]; 2: nop)
    CAUSES(2)
    // Reads and writes of eight.
    DR(2, WATCHED + 8)
    DR7(0xb << 24 | 0x10)
    YIELD
    TRAP_AT(1, 0, offset 2b, mov al, [WATCHED + 15]; 2: nop)
    CAUSES(4)
    NO_TRAP(mov al, [WATCHED + 16])
    // Two at a time.
    DR7(0xb << 24 | 0xd << 20 | 0x14)
    YIELD
    TRAP_AT(1, 0, offset 2b, mov [WATCHED + 1], rax; 2: nop)
    CAUSES(6)
    // None is on: nothing happens.
    DR7(0xb << 24 | 0xd << 20)
    NO_TRAP(mov [WATCHED + 1], rax)
done:
    DR7(0)
    PASS

count_steps:
    push rax
    inc dword ptr [steps]
    mov rax, dr6
    and eax, 0xe000
    cmp eax, 0x4000
    je 1f
    inc dword ptr [bad_causes]
1:  pop rax
    cmp byte ptr [sets_rf], 0
    je 2f
    or dword ptr [rsp + 16], 0x10000
2:  iretq
.balign 8
quirks: .long 0
sets_rf: .long 0
steps: .long 0
bad_causes: .long 0
#include "traps64.inc"
#include "tables.inc"
