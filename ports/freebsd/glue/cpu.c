// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* CPUs, and clocks. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/proc.h>
#include <sys/smp.h>
#include <sys/time.h>

#include <machine/cpufunc.h>
#include <machine/md_var.h>
#include <machine/segments.h>

#include "freebsd.h"
#include "glue.h"
#include "kernel.h"

static int kick_vector = -1;

int
wb_cpus_start(void)
{
	kick_vector = lapic_ipi_alloc(pti ? Xjustreturn1_pti : Xjustreturn);
	return (kick_vector < 0 ? EBUSY : 0);
}

void
wb_cpus_stop(void)
{
	lapic_ipi_free(kick_vector);
}

u_int
wb_cpu(void)
{
	return (curcpu);
}

u_int
wb_pin(void)
{
	critical_enter();
	return (curcpu);
}

void
wb_unpin(void)
{
	critical_exit();
}

u_long
wb_irq_save(void)
{
	return (intr_disable());
}

void
wb_irq_restore(u_long flags)
{
	intr_restore(flags);
}

/* Those of the set that there are: the kernel minds others. */
static cpuset_t
set_of(const u_long *bits)
{
	cpuset_t cpus;

	_Static_assert(sizeof(cpus) == WB_MAX_CPUS / 8, "sets have one size");
	memcpy(&cpus, bits, sizeof(cpus));
	CPU_AND(&cpus, &cpus, &all_cpus);
	return (cpus);
}

void
wb_kick(const u_long *bits)
{
	ipi_selected(set_of(bits), kick_vector);
}

void
wb_call_on(const u_long *bits, void (*call)(void *), void *context)
{
	cpuset_t cpus = set_of(bits);

	if (!CPU_EMPTY(&cpus))
		smp_rendezvous_cpus(cpus, smp_no_rendezvous_barrier, call,
		    smp_no_rendezvous_barrier, context);
}

u_int
wb_cpu_count(void)
{
	return (mp_maxid + 1);
}

bool
wb_is_online(u_int cpu)
{
	return (cpu <= mp_maxid && CPU_ISSET(cpu, &all_cpus));
}

/* The descriptor of a task register that is loaded says so. */
void
wb_task_register_was_cut(void)
{
	PCPU_GET(tss)->sd_type = SDT_SYSTSS;
	ltr(GSEL(GPROC0_SEL, SEL_KPL));
}

/* CPUs stay. */
void
wb_hold_cpus(void)
{
}

void
wb_unhold_cpus(void)
{
}

/* The kernel keeps no copy of the register. */
bool
wb_change_cr4(u_long set, u_long clear)
{
	return (false);
}

/* The kernel has decided nothing of the kind. */
bool
wb_distrusts_predictions(void)
{
	return (true);
}

u_int
wb_tsc_khz(void)
{
	return (tsc_freq / 1000);
}

static uint64_t
nanoseconds(const struct timespec *time)
{
	return ((uint64_t)time->tv_sec * 1000000000 + time->tv_nsec);
}

uint64_t
wb_boot_time(void)
{
	struct timespec time;

	nanouptime(&time);
	return (nanoseconds(&time));
}

uint64_t
wb_wall_time(void)
{
	struct timespec time;

	nanotime(&time);
	return (nanoseconds(&time));
}

bool
wb_tsc_is_stable(void)
{
	return (tsc_is_invariant != 0 && smp_tsc != 0);
}
