// Every kind of access by ring 0 and ring 3 to a page with every combination of rights: present,
// writable, user and no-execute in the entry that maps it and, but for present, in one above; pages
// of 4 KiB, 2 MiB and 1 GiB; with CR0.WP and without; in memory that is plain, read-only, logged
// and tracked. What is allowed happens, what is not faults, and says why and where.
#include "guest.inc"
.set L3, TABLES + 0x3000
.set L2, TABLES + 0x4000
.set L1, TABLES + 0x5000
.set TRACKED_PAGE, 0x50000
.set BEGIN, 0x909090c3     // RET, and a number that is known
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov byte ptr [idt + 0x80 * 16 + 5], 0xee
    mov dword ptr [idt + 0x80 * 16], (CODE64 << 16)
    mov word ptr [idt + 0x80 * 16], offset leave_ring3
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov eax, TSS
    ltr ax
    mov eax, BEGIN
    mov [DATA], eax
    mov [TRACKED_PAGE], eax
    mov [SPARE], eax
    DO(POKE, 2, 0, BEGIN)
    DO(SET_FLAGS, 3, LOG_DIRTY, 0)
    NOT_ON(NO_TRACKER, 1f)
    DO(TRACK, TRACKED_PAGE >> 12, 0, 0)
1:
    mov edx, STRAYS
    out dx, eax
    // R8: the memory. R9: the level. R12: the rights.
    xor r8d, r8d
memory:
    mov r13d, [r8 * 4 + memories]
    xor r9d, r9d
level:
    mov rdi, 1 << 39
    cmp r9d, 1
    je 2f
    ja 3f
    mov r14d, L1
    jmp 4f
2:  mov r14d, L2
    mov eax, r13d
    and eax, 0x1fffff
    add rdi, rax
    jmp 4f
3:  mov eax, 0x80000001
    cpuid
    bt edx, 26
    jnc no_gib
    mov r14d, L3
    add rdi, r13
4:  xor r12d, r12d
rights:
    // The entry above.
    mov dword ptr [L3], L2 + 7
    mov dword ptr [L2], L1 + 7
    mov dword ptr [L3 + 4], 0
    mov dword ptr [L2 + 4], 0
    mov eax, r12d
    shr eax, 3
    and eax, 6
    or eax, L3 + 1
    mov [TABLES + 8], eax
    mov eax, r12d
    and eax, 0x40
    shl eax, 25
    mov [TABLES + 12], eax
    xor esi, esi // 0: read, 1: write, 2: execute; 4 more in ring 3; 8 more without CR0.WP
access:
    // The entry that maps it.
    mov eax, r12d
    and eax, 7
    or eax, r13d
    cmp r9d, 1
    jb 1f
    or eax, 0x80
    and eax, 0xffe00fff
    cmp r9d, 2
    jb 1f
    and eax, 0xfff
1:  mov [r14], eax
    mov eax, r12d
    and eax, 8
    shl eax, 28
    mov [r14 + 4], eax
    invlpg [rdi]
    mov rax, cr0
    bts eax, 16
    bt esi, 3
    jnc 2f
    btr eax, 16
2:  mov cr0, rax
    // Is it allowed? EBX: the error code, or 0x100.
    mov eax, r12d
    shr eax, 3
    and eax, 6
    or eax, 1
    and eax, r12d // present, writable, user
    mov ecx, r12d
    shr ecx, 3
    or ecx, r12d
    and ecx, 8 // no execute
    mov ebx, esi
    and ebx, 3
    add ebx, ebx
    cmp ebx, 4
    jne 3f
    mov ebx, 0x10
3:  mov edx, esi
    and edx, 4
    or ebx, edx
    bt eax, 0
    jnc expected // not present
    or ebx, 1
    test esi, 4
    jz 4f
    bt eax, 2
    jnc expected // not the user's
4:  test ebx, 0x10
    jz 5f
    test ecx, ecx
    jnz expected
5:  test ebx, 2
    jz 6f
    bt eax, 1
    jc 6f
    cmp esi, 9 // ring 0 without CR0.WP
    jne expected
6:  mov ebx, 0x100
expected:
    inc r10d
    mov r11d, [r13 + 8]
    test esi, 4
    jnz 7f
    call attempt
    jmp 8f
7:  mov [saved], rsp
    push USER_DATA
    push STACK3
    push 2
    push USER_CODE64
    push offset ring3
    iretq
8:  cmp ebx, 0x100
    je allowed
    EQ(dword ptr [vector], 14)
    EQ([error], ebx)
    mov rcx, rdi
    test ebx, 2
    jz 9f
    add rcx, 8
9:  EQ([fault_address], rcx)
    EQ([r13 + 8], r11d)
    bt dword ptr [r14], 6
    IF(nc)
    jmp next
allowed:
    EQ(dword ptr [vector], 0x100)
    bt dword ptr [r14], 5
    IF(c)
    mov eax, esi
    and eax, 3
    cmp eax, 1
    je 1f
    bt dword ptr [r14], 6
    IF(nc)
    jmp next
1:  bt dword ptr [r14], 6
    IF(c)
    inc dword ptr [r8 * 4 + writes]
    cmp r8d, 1
    je 2f
    EQ([r13 + 8], r10d)
    jmp next
2:  EQ([r13 + 8], r11d) // read-only
next:
    inc esi
    mov eax, esi
    and eax, 3
    cmp eax, 3
    jne 1f
    inc esi
1:  cmp esi, 16
    jb access
    inc r12d
    cmp r12d, 0x80
    jb rights
    inc r9d
    cmp r9d, 3
    jb level
no_gib:
    inc r8d
    cmp r8d, 4
    jb memory
    // Each write was told of.
    IN32(STRAYS)
    EQ(eax, [writes + 4])
    DO(FETCH_LOG, 3, 0, 0)
    EQ(eax, 1)
    NOT_ON(NO_TRACKER, 1f)
    DO(TRACKED, 0, 0, 0)
    EQ(eax, [writes + 12])
    NE(eax, 0)
1:  PASS

ring3:
    call attempt
    int 0x80
leave_ring3:
    mov rsp, [saved]
    jmp 8b

// The access in the lowest two bits of ESI.
attempt:
    mov dword ptr [resume], offset 3f
    mov dword ptr [vector], 0x100
    mov rbp, rsp
    mov eax, esi
    and eax, 3
    cmp eax, 1
    je 1f
    ja 2f
    cmp dword ptr [rdi], BEGIN
    je 3f
    int3
1:  mov [rdi + 8], r10d
    jmp 3f
2:  call rdi
3:  mov rsp, rbp
    mov dword ptr [resume], 0
    ret
.balign 8
memories: .long DATA, ROM, SPARE, TRACKED_PAGE
writes: .long 0, 0, 0, 0
saved: .quad 0
tss:
    .long 0
    .quad STACK0, 0, 0, 0, STACK_IST, 0, 0, 0, 0, 0, 0, 0
    .word 0, 104
#include "traps64.inc"
#include "tables.inc"
