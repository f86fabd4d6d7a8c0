// Every kind of access to every kind of page: present, writable, user and executable at each level,
// in memory that is writable, read-only, logged, and not there.
#include "guest.inc"
.set L3, TABLES + 0x1000
.set MY_L2, TABLES + 0x3000
.set MY_L1, TABLES + 0x4000
.set PAGE, 0x40000000
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov dword ptr [L3 + 8], MY_L2 + 7
    mov dword ptr [MY_L2], MY_L1 + 7
    // Where the page leads: writable memory, read-only memory, logged memory.
    DO(SET_FLAGS, 3, LOG_DIRTY, 0)
    DO(POKE, 2, 0, 0x909090c3)
    mov dword ptr [DATA], 0x909090c3
    mov dword ptr [SPARE], 0x909090c3
    xor r12d, r12d
kinds:
    mov eax, DATA
    cmp r12d, 1
    jb 1f
    mov eax, ROM
    je 1f
    mov eax, SPARE
1:  mov r13d, eax
    // Bits of r14: present, writable and no-execute at level 1; the same at level 2.
    xor r14d, r14d
rights:
    // Level 1.
    mov eax, r14d
    and eax, 3
    or eax, r13d
    or eax, 4
    mov [MY_L1], eax
    mov eax, r14d
    and eax, 4
    shl eax, 29
    mov [MY_L1 + 4], eax
    // Level 2.
    mov eax, r14d
    shr eax, 3
    and eax, 3
    or eax, MY_L1 + 4
    mov [MY_L2], eax
    mov eax, r14d
    and eax, 0x20
    shl eax, 26
    mov [MY_L2 + 4], eax
    mov rax, cr3
    mov cr3, rax
    // What must come of it: ebx has present, writable and executable of both levels.
    mov eax, r14d
    xor eax, 0x24
    mov ebx, eax
    shr ebx, 3
    and ebx, eax
    mov edi, PAGE
    // Read.
    TRY(mov eax, [rdi])
    test ebx, 1
    jz 2f
    EQ(dword ptr [vector], 0x100)
    EQ(eax, 0x909090c3)
    jmp 3f
2:  EQ(dword ptr [vector], 14)
    EQ(dword ptr [error], 0)
3:  // Write. To read-only memory it is lost.
    mov eax, 0x909090c3
    TRY(mov [rdi], eax)
    test ebx, 1
    jz 4f
    test ebx, 2
    jz 5f
    EQ(dword ptr [vector], 0x100)
    EQ(dword ptr [r13], 0x909090c3)
    jmp 6f
4:  EQ(dword ptr [error], 2)
    EQ(dword ptr [vector], 14)
    jmp 6f
5:  EQ(dword ptr [error], 3)
    EQ(dword ptr [vector], 14)
6:  // Execute.
    mov rbp, rsp
    TRY(call rdi)
    mov rsp, rbp
    test ebx, 1
    jz 7f
    test ebx, 4
    jz 8f
    EQ(dword ptr [vector], 0x100)
    jmp 9f
7:  EQ(dword ptr [vector], 14)
    EQ(dword ptr [error], 0x10)
    jmp 9f
8:  EQ(dword ptr [vector], 14)
    EQ(dword ptr [error], 0x11)
9:  inc r14d
    cmp r14d, 0x40
    jb rights
    inc r12d
    cmp r12d, 3
    jb kinds
    DO(FETCH_LOG, 3, 0, 0)
    EQ(eax, 1)
    PASS
#include "traps64.inc"
#include "tables.inc"
