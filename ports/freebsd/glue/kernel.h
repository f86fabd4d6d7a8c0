/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Kernel functions whose own headers cannot be included: <machine/smp.h> and
 * <x86/apicvar.h> want <sys/bus.h>, and with it headers that only a kernel's
 * build makes.
 */
#ifndef WATERBEAR_KERNEL_H
#define	WATERBEAR_KERNEL_H

#include <sys/types.h>
#include <sys/_cpuset.h>

/* <machine/intr_machdep.h>, <x86/apicvar.h>: an interrupt that does nothing. */
void	Xjustreturn(void);
void	Xjustreturn1_pti(void);
int	lapic_ipi_alloc(void (*handler)(void));
void	lapic_ipi_free(int vector);
/* <x86/x86_smp.h> */
void	ipi_selected(cpuset_t cpus, u_int vector);
/* <machine/clock.h>: time-stamp counters: whether they stop, agree, how fast. */
extern int tsc_is_invariant;
extern int smp_tsc;
extern uint64_t tsc_freq;
/* <machine/pmap.h> has it as well, but not for C files that only need this. */
extern int pti;

#endif
