// Page tables of the guest's own in memory that the host protects: logged, tracked, read-only.
#include "guest.inc"
.set PDPT, TABLES + 0x1000
.set GIB, 0x40000000
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // The level 2 table of the second GiB is in slot 3; its pages are those of the first.
    mov dword ptr [PDPT + 8], SPARE + 7
    mov edi, SPARE
    mov eax, 0x87
    mov ecx, 512
    cld
1:  mov [rdi], eax
    mov dword ptr [rdi + 4], 0
    add edi, 8
    add eax, 0x200000
    loop 1b
    mov dword ptr [DATA], 0x4444
    // Logged: accessed bits set by the CPU are in the log.
    DO(SET_FLAGS, 3, LOG_DIRTY, 0)
    DO(FETCH_LOG, 3, 0, 0)
    mov ebx, GIB
    EQ(dword ptr [rbx + DATA], 0x4444)
    // That machine looks for the right to write only where it treats every walk as a write, and
    // otherwise sets the bits in memory that it may only read.
    NOT_ON(BLIND_WALKS, 3f)
    DO(FETCH_LOG, 3, 0, 0)
    EQ(eax, 1)
    test dword ptr [SPARE], 0x20
    IF(nz)
    mov dword ptr [rbx + 0x200000], 7
    DO(FETCH_LOG, 3, 0, 0)
    EQ(eax, 1)
    mov eax, [SPARE + 8]
    and eax, 0x60
    EQ(eax, 0x60)
3:  DO(SET_FLAGS, 3, 0, 0)
    // Tracked: the guest's writes to its table are told of, and translations work.
    NOT_ON(NO_TRACKER, 3f)
    DO(TRACK, SPARE >> 12, 0, 0)
    mov dword ptr [SPARE + 16], 0x87
    invlpg [rbx + 0x400000]
    DO(TRACKED, 0, 0, 0)
    EQ(eax, 1)
    EQ(dword ptr [rbx + 0x400000 + DATA], 0x4444)
    mov dword ptr [SPARE + 16], 0x400087
    invlpg [rbx + 0x400000]
    mov dword ptr [rbx + 0x400000 - 4], 0x6666
    EQ(dword ptr [0x3ffffc], 0x6666)
    DO(UNTRACK, SPARE >> 12, 0, 0)
3:
    // Read-only, with accessed and dirty bits set already: nothing to be written.
    mov edi, SPARE
    mov ecx, 512
2:  or dword ptr [rdi], 0x60
    add edi, 8
    loop 2b
    DO(DELETE_SLOT, 3, 0, 0)
    DO(CREATE_SLOT, 3, READ_ONLY, SPARE)
    mov rax, cr3
    mov cr3, rax
    EQ(dword ptr [rbx + DATA], 0x4444)
    mov dword ptr [rbx + DATA], 0x8888
    EQ(dword ptr [DATA], 0x8888)
    // And with them clear: they stay so, and the access works.
    DO(POKE, 3, 0, 0x87)
    mov rax, cr3
    mov cr3, rax
    EQ(dword ptr [rbx + DATA], 0x8888)
    mov dword ptr [rbx + DATA], 0x9999
    EQ(dword ptr [DATA], 0x9999)
    NOT_ON(BLIND_WALKS, 4f)
    DO(PEEK, 3, 0, 0)
    EQ(eax, 0x87)
4:  PASS
#include "traps64.inc"
#include "tables.inc"
