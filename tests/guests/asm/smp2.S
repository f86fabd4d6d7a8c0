// Two vCPUs.
.set CPUS, 2
#include "smp.inc"
