// Counts for ever, with interrupts on: whoever kicks it sees by the count that it is in the guest.
#include "guest.inc"
.set COUNT, 0x40000
    TO_PROTECTED
    TO_LONG
    sti
    // Leaves the guest and comes back with interrupts on: Bochs holds the host's off as well while
    // a guest that was entered without them runs.
    cpuid
1:  inc dword ptr [COUNT]
    jmp 1b
#include "tables.inc"
