// A guest that breaks itself: an empty interrupt table and an interrupt.
#include "guest.inc"
    TO_PROTECTED
    lidt [nothing]
    sti
    int 0x80
    FAIL
nothing: .word 0
    .long 0
#include "tables.inc"
