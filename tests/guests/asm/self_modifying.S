// Code that changes itself: the next instruction, a loop's body, code seen at another address.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // A loop that changes its own constant.
    mov ecx, 1000
    xor ebx, ebx
1:  mov eax, 0
patched = . - 4
    add ebx, eax
    inc dword ptr [patched]
    loop 1b
    EQ(ebx, 499500)
    // A function that is written, called, rewritten, called.
    mov edi, DATA
    mov ecx, 256
2:  mov byte ptr [rdi], 0xb8
    mov [rdi + 1], ecx
    mov byte ptr [rdi + 5], 0xc3
    call rdi
    EQ(eax, ecx)
    loop 2b
    // Code that crosses pages.
    mov edi, DATA + 0xffd
    mov ecx, 64
3:  mov byte ptr [rdi], 0xb8
    mov [rdi + 1], ecx
    mov byte ptr [rdi + 5], 0xc3
    call rdi
    EQ(eax, ecx)
    loop 3b
    // The same code through another mapping: 3 GiB is 0 GiB again.
    mov dword ptr [TABLES + 0x1000 + 24], TABLES + 0x2007
    mov ebx, 0xc0000000
    mov ecx, 64
    mov edi, DATA + 0x2000
4:  mov byte ptr [rbx + rdi], 0xb8
    mov [rbx + rdi + 1], ecx
    mov byte ptr [rbx + rdi + 5], 0xc3
    call rdi
    EQ(eax, ecx)
    loop 4b
    // Code that moves: the page under an address is exchanged.
    mov word ptr [0x200000], 0x01b0
    mov byte ptr [0x200002], 0xc3
    mov word ptr [0x300000], 0x02b0
    mov byte ptr [0x300002], 0xc3
    mov ecx, 64
    mov edi, TABLES + 0x3000 // a table for 2 GiB
    mov dword ptr [TABLES + 0x4000], TABLES + 0x3007
    mov dword ptr [TABLES + 0x1000 + 16], TABLES + 0x4007
    mov ebx, 0x80000000
5:  mov dword ptr [rdi], 0x200007
    invlpg [rbx]
    call rbx
    EQ(al, 1)
    mov dword ptr [rdi], 0x300007
    invlpg [rbx]
    call rbx
    EQ(al, 2)
    loop 5b
    PASS
#include "traps64.inc"
#include "tables.inc"
