// A loop without exits and with interrupts off: the host gets its CPU back all the same.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    cli
    NOT_ON(BOCHS, 2f)
1:  inc ebx
    jmp 1b
    // Bochs 2.7 forgets to look for the host's interrupts when it enters a guest that has them off,
    // and remembers when the guest switches them. Behind STI and CLI they are off all the time.
2:  inc ebx
    sti
    cli
    jmp 2b
#include "tables.inc"
