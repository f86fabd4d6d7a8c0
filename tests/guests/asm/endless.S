// A loop without exits and with interrupts off: the host gets its CPU back all the same.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    cli
1:  inc ebx
    jmp 1b
#include "tables.inc"
