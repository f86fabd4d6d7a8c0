// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* CPUs, clocks, the calling thread, its FPU. */
#include <linux/cpu.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/swait.h>
#include <linux/timekeeping.h>
#include <linux/version.h>
#include <asm/desc.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>
#include <asm/tsc.h>
#include <asm/perf_event.h>
#include <asm/tlbflush.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
#include <trace/events/ipi.h>
#endif

#include "glue.h"

unsigned int wb_cpu(void)
{
	return raw_smp_processor_id();
}

unsigned int wb_pin(void)
{
	return get_cpu();
}

void wb_unpin(void)
{
	put_cpu();
}

unsigned long wb_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void wb_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

/* A CPU that is gone takes no interrupt, and to send it one is a fault. */
void wb_kick(const unsigned long *cpus)
{
	unsigned int cpu;

	preempt_disable();
	for_each_set_bit(cpu, cpus, min_t(unsigned int, nr_cpu_ids, WB_MAX_CPUS))
		if (cpu_online(cpu))
			smp_send_reschedule(cpu);
	preempt_enable();
}

/* The kernel reads no more bits of a mask than there are CPUs. */
void wb_call_on(const unsigned long *cpus, void (*call)(void *), void *context)
{
	on_each_cpu_mask(to_cpumask(cpus), call, context, true);
}

unsigned int wb_cpu_count(void)
{
	return nr_cpu_ids;
}

bool wb_is_online(unsigned int cpu)
{
	return cpu_online(cpu);
}

void wb_hold_cpus(void)
{
	cpus_read_lock();
}

void wb_unhold_cpus(void)
{
	cpus_read_unlock();
}

/* Processor Trace stops for VMX operation where both do not go together. */
bool wb_change_cr4(unsigned long set, unsigned long clear)
{
	if (set & X86_CR4_VMXE)
		intel_pt_handle_vmx(1);
	cr4_update_irqsoff(set, clear);
	if (clear & X86_CR4_VMXE)
		intel_pt_handle_vmx(0);
	return true;
}

void wb_task_register_was_cut(void)
{
	invalidate_tss_limit();
}

bool wb_distrusts_predictions(void)
{
	return boot_cpu_has(X86_FEATURE_RSB_VMEXIT) ||
	       boot_cpu_has(X86_FEATURE_RSB_VMEXIT_LITE);
}

unsigned int wb_tsc_khz(void)
{
	return tsc_khz;
}

uint64_t wb_boot_time(void)
{
	return ktime_get_boottime_ns();
}

uint64_t wb_wall_time(void)
{
	return ktime_get_real_ns();
}

bool wb_tsc_is_stable(void)
{
	return boot_cpu_has(X86_FEATURE_CONSTANT_TSC) &&
	       boot_cpu_has(X86_FEATURE_NONSTOP_TSC) && !check_tsc_unstable();
}

bool wb_should_yield(void)
{
	return need_resched();
}

void wb_yield(void)
{
	cond_resched();
}

bool wb_signal_pending(void)
{
	return signal_pending(current);
}

bool wb_held_up(void)
{
	return read_thread_flags() &
	       (_TIF_SIGPENDING | _TIF_NOTIFY_SIGNAL | _TIF_NEED_RESCHED);
}

/*
 * The mask is put aside where the kernel looks for it: a signal of that mask is
 * kept, even if nobody handles it.
 */
void wb_signals_mask(uint64_t mask, struct wb_signals *before)
{
	sigset_t signals;

	siginitset(&signals, mask);
	sigdelsetmask(&signals, sigmask(SIGKILL) | sigmask(SIGSTOP));
	sigprocmask(SIG_SETMASK, &signals, &current->real_blocked);
}

void wb_signals_unmask(const struct wb_signals *before)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

struct wb_queue {
	struct swait_queue_head head;
};

struct wb_queue *wb_queue_new(void)
{
	struct wb_queue *queue = wb_alloc(sizeof(*queue), 1);

	if (queue)
		init_swait_queue_head(&queue->head);
	return queue;
}

void wb_queue_free(struct wb_queue *queue)
{
	wb_free(queue);
}

bool wb_queue_wait(struct wb_queue *queue, bool interruptible,
		   bool (*ready)(void *), void *context)
{
	return !___swait_event(queue->head, ready(context),
			       interruptible ? TASK_INTERRUPTIBLE : TASK_UNINTERRUPTIBLE,
			       0, schedule());
}

bool wb_queue_wake(struct wb_queue *queue)
{
	/* With the barrier that the look for sleepers needs. */
	if (!swq_has_sleeper(&queue->head))
		return false;
	swake_up_all(&queue->head);
	return true;
}

struct wb_fpu {
	struct fpu_guest guest;
};

struct wb_fpu *wb_fpu_new(void)
{
	struct wb_fpu *fpu = wb_alloc(sizeof(*fpu), 1);

	if (fpu && !fpu_alloc_guest_fpstate(&fpu->guest)) {
		wb_free(fpu);
		fpu = NULL;
	}
	return fpu;
}

void wb_fpu_free(struct wb_fpu *fpu)
{
	fpu_free_guest_fpstate(&fpu->guest);
	wb_free(fpu);
}

void wb_fpu_load(struct wb_fpu *fpu)
{
	fpu_swap_kvm_fpstate(&fpu->guest, true);
}

void wb_fpu_unload(struct wb_fpu *fpu)
{
	fpu_swap_kvm_fpstate(&fpu->guest, false);
}

void wb_fpu_refresh(void)
{
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

/* Protection keys are kept elsewhere, by those who switch them; nobody does. */
bool wb_fpu_read(struct wb_fpu *fpu, void *into, size_t size)
{
	struct fpu_guest *guest = &fpu->guest;

	memset(into, 0, size);
	/* The kernel cuts a state short that does not fit. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 57)
	fpu_copy_guest_fpstate_to_uabi(guest, into, size,
				       guest->fpstate->user_xfeatures, 0);
#else
	fpu_copy_guest_fpstate_to_uabi(guest, into, size, 0);
#endif
	return size >= guest->uabi_size;
}

bool wb_fpu_write(struct wb_fpu *fpu, const void *from, size_t size)
{
	struct fpu_guest *guest = &fpu->guest;
	u32 keys = 0;

	if (size < guest->uabi_size)
		return false;
	return !fpu_copy_uabi_to_guest_fpstate(guest, from,
					       guest->fpstate->user_xfeatures,
					       &keys);
}
