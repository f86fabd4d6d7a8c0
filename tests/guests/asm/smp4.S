// Four vCPUs.
.set CPUS, 4
#include "smp.inc"
