// A REP that goes on over memory, a device and nothing: the host takes its CPU back in the middle.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    sti
    mov edi, NOWHERE
    mov eax, TABLES + 0x3000
    mov dword ptr [TABLES + 0x1000 + 24], TABLES + 0x3007 // 3 GiB and on
    mov ecx, 512
    mov edx, 0xc0000087
    mov ebx, TABLES + 0x3000
1:  mov [rbx], edx
    add edx, 0x200000
    add ebx, 8
    loop 1b
    mov rcx, -1
    mov al, 0x5a
    cld
    rep stosb
    FAIL
#include "traps64.inc"
#include "tables.inc"
