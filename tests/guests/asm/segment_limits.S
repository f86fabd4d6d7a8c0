// Protected mode: what may be done with a segment, and how far it reaches.
#include "guest.inc"
    TO_PROTECTED
    SET_TRAPS32

    // A null selector is loaded, but not used. Code is not written.
    xor eax, eax
    mov es, eax
    TRAP(13, 0, mov al, es:[DATA])
    mov eax, DATA32
    mov es, eax
    TRAP(13, 0, mov dword ptr cs:[DATA], 1)

    // A read-only segment; code that cannot be read.
    mov eax, FREE
    mov dword ptr [gdt + FREE], 0x0000ffff
    mov dword ptr [gdt + FREE + 4], 0x00cf9004
    mov fs, eax
    TRAP(13, 0, mov dword ptr fs:[0x10], 1)
    TRAP(13, 0, add dword ptr fs:[0x10], 1)
    mov dword ptr [gdt + FREE + 4], 0x00cf9804
    TRAP(13, FREE, mov fs, eax)

    // Limits in bytes: the last byte counts, for every size, and for the stack it is #SS.
    mov dword ptr [gdt + FREE], 0x00000fff
    mov dword ptr [gdt + FREE + 4], 0x00409204
    mov fs, eax
    NO_TRAP(mov byte ptr fs:[0xfff], 1)
    NO_TRAP(mov dword ptr fs:[0xffc], 1)
    TRAP(13, 0, mov byte ptr fs:[0x1000], 1)
    TRAP(13, 0, mov word ptr fs:[0xfff], 1)
    TRAP(13, 0, mov dword ptr fs:[0xffd], 1)
    TRAP(13, 0, mov ebx, fs:[0xfffffffe])
    mov ebx, esp
    mov ss, eax
    mov esp, 0x800
    // The handler's stack is in this segment too, below.
    TRAP(12, 0, mov ecx, ss:[0xffe])
    mov ecx, DATA32
    mov ss, ecx
    mov esp, ebx
    // Limits in pages.
    mov dword ptr [gdt + FREE], 0
    mov dword ptr [gdt + FREE + 4], 0x00c09204
    mov fs, eax
    NO_TRAP(mov byte ptr fs:[0xfff], 1)
    TRAP(13, 0, mov byte ptr fs:[0x1000], 1)
    lsl ecx, eax
    EQ(ecx, 0xfff)

    // A segment that grows down: what is above the limit is in it.
    mov dword ptr [gdt + FREE], 0x00000fff
    mov dword ptr [gdt + FREE + 4], 0x00409604
    mov fs, eax
    NO_TRAP(mov byte ptr fs:[0x1000], 1)
    TRAP(13, 0, mov byte ptr fs:[0xfff], 1)
    mov dword ptr [gdt + FREE + 4], 0x00009604
    mov fs, eax
    NO_TRAP(mov byte ptr fs:[0xffff], 1)
    TRAP(13, 0, mov byte ptr fs:[0x10000], 1)

    // Ports and strings obey them too.
    mov dword ptr [gdt + FREE], 0x00000fff
    mov dword ptr [gdt + FREE + 4], 0x00409204
    mov es, eax
    mov dx, FIFO
    mov edi, 0x1000
    TRAP(13, 0, insb)
    mov fs, eax
    mov esi, 0x1000
    TRAP(13, 0, outsb dx, fs:[esi])
    PASS
#include "traps32.inc"
#include "tables.inc"
