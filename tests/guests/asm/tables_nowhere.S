// Page tables where there is no memory. The access can neither happen nor fault by itself: the
// owner is told.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    mov dword ptr [TABLES + 0x1008], NOWHERE + 7
    mov eax, 0x40000000
    TRY(mov eax, [rax])
    FAIL
#include "traps64.inc"
#include "tables.inc"
