// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The FPU: a thread's state is in the CPU from its first use until somebody
 * wants it out of there, and CR0.TS is set otherwise.
 */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/pcpu.h>
#include <sys/proc.h>

#include <machine/cpufunc.h>
#include <machine/fpu.h>
#include <machine/md_var.h>
#include <machine/pcb.h>
#include <machine/specialreg.h>

#include "host.h"

int use_xsave;
uint64_t xsave_mask;
u_int cpu_max_ext_state_size = 512;
u_int cpu_mxcsr_mask = 0xffbf;

#define	ALIGNMENT	64

static void
start_here(void *context)
{
	load_cr0(rcr0() | CR0_TS);
}

void
host_fpu_start(void)
{
	u_int leaf[4];
	struct savefpu *area;

	if ((rcr4() & CR4_XSAVE) != 0) {
		use_xsave = 1;
		xsave_mask = rxcr(XCR0);
		cpuid_count(0xd, 0, leaf);
		cpu_max_ext_state_size = leaf[1];
	}
	for (u_int cpu = 0; cpu < bare_cpu_count(); cpu++) {
		area = bare_alloc(cpu_max_ext_state_size, ALIGNMENT);
		fpu_save_area_reset(area);
		host_threads[cpu].td_pcb->pcb_save = area;
	}
	bare_call_on((1ul << bare_cpu_count()) - 1, start_here, NULL);
}

struct savefpu *
fpu_save_area_alloc(void)
{
	SLEEP_RULE();
	COUNT(fpu_areas, 1);
	return (bare_alloc(cpu_max_ext_state_size, ALIGNMENT));
}

void
fpu_save_area_free(struct savefpu *area)
{
	BLOCK_RULE();
	COUNT(fpu_areas, -1);
	bare_free(area, cpu_max_ext_state_size, ALIGNMENT);
}

void
fpu_save_area_reset(struct savefpu *area)
{
	const uint16_t control = __INITIAL_FPUCW__;
	const uint32_t mxcsr = __INITIAL_MXCSR__;

	memset(area, 0, cpu_max_ext_state_size);
	memcpy(area, &control, sizeof(control));
	memcpy((char *)area + 24, &mxcsr, sizeof(mxcsr));
}

static void
save(struct savefpu *area)
{
	if (use_xsave)
		__asm __volatile("xsave64 (%0)" : :
		    "r" (area), "a" (-1), "d" (-1) : "memory");
	else
		__asm __volatile("fxsave64 (%0)" : : "r" (area) : "memory");
}

static void
restore(struct savefpu *area)
{
	__asm __volatile("fninit");
	if (use_xsave)
		__asm __volatile("xrstor64 (%0)" : :
		    "r" (area), "a" (-1), "d" (-1) : "memory");
	else
		__asm __volatile("fxrstor64 (%0)" : : "r" (area) : "memory");
}

void
fpuexit(struct thread *td)
{
	if (td != curthread)
		panic("fpuexit for another thread");
	critical_enter();
	if (PCPU_GET(fpcurthread) == td) {
		clts();
		save(curpcb->pcb_save);
		load_cr0(rcr0() | CR0_TS);
		PCPU_SET(fpcurthread, NULL);
	}
	critical_exit();
}

void
fpudna(void)
{
	critical_enter();
	if (PCPU_GET(fpcurthread) == curthread)
		panic("the FPU is asked for by who has it");
	clts();
	restore(curpcb->pcb_save);
	PCPU_SET(fpcurthread, curthread);
	critical_exit();
}

void
set_pcb_flags(struct pcb *pcb, const u_int flags)
{
	atomic_set_int(&pcb->pcb_flags, flags);
}

void
clear_pcb_flags(struct pcb *pcb, const u_int flags)
{
	atomic_clear_int(&pcb->pcb_flags, flags);
}
