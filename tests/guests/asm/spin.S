// A loop without exits, with interrupts on: the host gets its CPU back, and the guest nothing.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    sti
1:  inc ebx
    jmp 1b
#include "tables.inc"
