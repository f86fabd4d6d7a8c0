// Interrupts and NMIs: HLT and waking up, windows, what STI and MOV SS hold off, what NMIs block.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // HLT with interrupts on; the host sends one when we halt. A hundred times.
    sti
    mov ecx, 100
1:  mov ebx, [interrupts]
    OUT8(INJECT_LATER, 0x40)
    hlt
    inc ebx
    EQ(dword ptr [interrupts], ebx)
    EQ(dword ptr [vector], 0x40)
    dec ecx
    jnz 1b
    // An NMI wakes a CPU that has interrupts off.
    cli
    OUT8(NMI_LATER, 0)
    hlt
    EQ(dword ptr [nmis], 1)

    // An interrupt that comes while interrupts are off waits until they are on.
    mov ebx, [interrupts]
    OUT8(INJECT, 0x41)
    mov ecx, 1000
2:  loop 2b
    EQ(dword ptr [interrupts], ebx)
    sti
    nop
    nop
    inc ebx
    EQ(dword ptr [interrupts], ebx)
    EQ(dword ptr [vector], 0x41)
    // With interrupts on it comes at once.
    OUT8(INJECT, 0x42)
    nop
    inc ebx
    EQ(dword ptr [interrupts], ebx)
    // Two: the higher first, then the other.
    cli
    OUT8(INJECT, 0x43)
    OUT8(INJECT, 0x44)
    sti
    nop
    nop
    add ebx, 2
    EQ(dword ptr [interrupts], ebx)
    EQ(dword ptr [vector], 0x43)
    cli

    // STI holds interrupts off for one instruction: CLI behind it lets none in.
    OUT8(INJECT, 0x45)
    mov ecx, 100
3:  sti
    cli
    loop 3b
    EQ(dword ptr [interrupts], ebx)
    // Nor between STI and HLT: it wakes the CPU, and the handler returns behind HLT.
    mov dword ptr [gate_ip], 0
    mov word ptr [idt + 0x45 * 16], offset note_ip
    sti
    hlt
4:  cli
    mov esi, [gate_ip]
    EQ(esi, offset 4b)

    // MOV SS holds off as well: with STI before it two instructions go by.
    mov word ptr [idt + 0x46 * 16], offset note_ip
    mov dword ptr [gate_ip], 0
    OUT8(INJECT, 0x46)
    mov eax, ss
    sti
    mov ss, eax
    nop
5:  nop
    cli
    // Behind MOV SS, which some CPUs count and some do not in STI's shadow.
    mov esi, [gate_ip]
    ABOVE(esi, offset 5b - 2)
    mov edi, offset 5b + 1
    ABOVE(edi, esi)
    // An IRET opens a window too, POPF with IF as well.
    mov ebx, [interrupts]
    OUT8(INJECT, 0x47)
    pushfq
    or dword ptr [rsp], 0x200
    popfq
    nop
    cli
    inc ebx
    EQ(dword ptr [interrupts], ebx)

    // An exit between STI and the next instruction keeps the shadow: CPUID exits.
    mov word ptr [idt + 0x48 * 16], offset note_ip
    mov dword ptr [gate_ip], 0
    OUT8(INJECT, 0x48)
    xor eax, eax
    sti
    cpuid
7:  nop
    cli
    mov esi, [gate_ip]
    EQ(esi, offset 7b)

    // In an NMI's handler further NMIs wait, one of them, until IRET.
    mov dword ptr [nmis], 0
    mov word ptr [idt + 2 * 16], offset nmi_handler
    OUT8(NMI, 0)
    nop
    EQ(dword ptr [nmis], 2)
    EQ(dword ptr [deepest], 1)
    PASS

// Interrupts that want to know where they came.
note_ip:
    push rax
    mov rax, [rsp + 8]
    mov [gate_ip], eax
    pop rax
    iretq

nmi_handler:
    push rax
    push rdx
    inc dword ptr [depth]
    mov eax, [depth]
    cmp eax, [deepest]
    jbe 1f
    mov [deepest], eax
1:  inc dword ptr [nmis]
    cmp dword ptr [nmis], 1
    jne 2f
    // Two come now; one is kept.
    OUT8(NMI, 0)
    OUT8(NMI, 0)
    nop
2:  dec dword ptr [depth]
    pop rdx
    pop rax
    iretq
.balign 8
gate_ip: .quad 0
depth: .long 0
deepest: .long 0
#include "traps64.inc"
#include "tables.inc"
