// An exception without any handler shuts the CPU down.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    lidt [nothing]
    ud2
    FAIL
nothing: .word 0
    .quad 0
#include "tables.inc"
