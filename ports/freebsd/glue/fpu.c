// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The guest's FPU state. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/proc.h>

#include <machine/fpu.h>
#include <machine/md_var.h>
#include <machine/pcb.h>
#include <machine/specialreg.h>

#include "glue.h"

/*
 * While it is loaded the guest's state is to the kernel what the thread has
 * in the FPU: it is saved when another thread runs and back in the CPU when
 * this one does, as for kernel code between fpu_kern_enter(9) and
 * fpu_kern_leave(9).
 */
struct wb_fpu {
	struct savefpu *area;
	struct savefpu *owners;
};

struct wb_fpu *
wb_fpu_new(void)
{
	struct wb_fpu *fpu = wb_alloc(sizeof(*fpu), sizeof(void *));

	fpu->area = fpu_save_area_alloc();
	fpu_save_area_reset(fpu->area);
	return (fpu);
}

void
wb_fpu_free(struct wb_fpu *fpu)
{
	fpu_save_area_free(fpu->area);
	wb_free(fpu);
}

void
wb_fpu_load(struct wb_fpu *fpu)
{
	struct pcb *pcb = curpcb;

	critical_enter();
	fpuexit(curthread);
	fpu->owners = pcb->pcb_save;
	pcb->pcb_save = fpu->area;
	/* The last one: a guest's run changes what a fast return relies on. */
	set_pcb_flags(pcb, PCB_KERNFPU | PCB_FPUINITDONE | PCB_FULL_IRET);
	critical_exit();
}

void
wb_fpu_unload(struct wb_fpu *fpu)
{
	struct pcb *pcb = curpcb;

	critical_enter();
	fpuexit(curthread);
	pcb->pcb_save = fpu->owners;
	clear_pcb_flags(pcb, PCB_KERNFPU);
	if ((pcb->pcb_flags & PCB_USERFPUINITDONE) == 0)
		clear_pcb_flags(pcb, PCB_FPUINITDONE);
	critical_exit();
}

void
wb_fpu_refresh(void)
{
	if (PCPU_GET(fpcurthread) != curthread)
		fpudna();
}

/* Where FXSAVE has MXCSR, x87 and SSE registers, and XSAVE its header. */
#define	MXCSR	24
#define	X87	32
#define	SSE	160
#define	SSE_END	416
#define	HEADER	512
#define	HEADER_END 576

bool
wb_fpu_read(struct wb_fpu *fpu, void *into, size_t size)
{
	const uint16_t control = __INITIAL_FPUCW__;
	char *to = into;
	uint64_t parts = XFEATURE_ENABLED_X87 | XFEATURE_ENABLED_SSE;

	memset(to, 0, size);
	if (size < HEADER_END || size < cpu_max_ext_state_size)
		return (false);
	memcpy(to, fpu->area, cpu_max_ext_state_size);
	if (use_xsave)
		memcpy(&parts, to + HEADER, sizeof(parts));
	else
		memcpy(to + HEADER, &parts, sizeof(parts));
	/* The CPU need not write what is as after a reset. */
	if ((parts & XFEATURE_ENABLED_X87) == 0) {
		memset(to, 0, MXCSR);
		memcpy(to, &control, sizeof(control));
		memset(to + X87, 0, SSE - X87);
	}
	if ((parts & XFEATURE_ENABLED_SSE) == 0)
		memset(to + SSE, 0, SSE_END - SSE);
	return (true);
}

bool
wb_fpu_write(struct wb_fpu *fpu, const void *from, size_t size)
{
	const char *bytes = from;
	uint64_t parts, rest;
	uint32_t mxcsr;

	if (size < HEADER_END || size < cpu_max_ext_state_size)
		return (false);
	memcpy(&mxcsr, bytes + MXCSR, sizeof(mxcsr));
	memcpy(&parts, bytes + HEADER, sizeof(parts));
	if ((mxcsr & ~cpu_mxcsr_mask) != 0 || (parts & ~(use_xsave ?
	    xsave_mask : XFEATURE_ENABLED_X87 | XFEATURE_ENABLED_SSE)) != 0)
		return (false);
	for (size_t at = HEADER + sizeof(parts); at < HEADER_END;
	    at += sizeof(rest)) {
		memcpy(&rest, bytes + at, sizeof(rest));
		if (rest != 0)
			return (false);
	}
	memcpy(fpu->area, bytes, cpu_max_ext_state_size);
	return (true);
}
