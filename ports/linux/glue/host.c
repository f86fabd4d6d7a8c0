// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The host: memory, read sections, locks, CPUs, FPU, the log. */
#include <linux/bug.h>
#include <linux/cpu.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/rwlock.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/srcu.h>
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

void *wb_alloc_page(void)
{
	return (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
}

void wb_free_page(void *page)
{
	free_page((unsigned long)page);
}

static void free_page_now(struct rcu_head *head)
{
	__free_page(container_of(head, struct page, rcu_head));
}

void wb_free_page_deferred(void *page)
{
	call_rcu(&virt_to_page(page)->rcu_head, free_page_now);
}

void *wb_alloc_pages(size_t size)
{
	return alloc_pages_exact(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
}

void wb_free_pages(void *pages, size_t size)
{
	free_pages_exact(pages, size);
}

void *wb_alloc(size_t size)
{
	return kvzalloc(size, GFP_KERNEL_ACCOUNT);
}

void wb_free(void *memory)
{
	kvfree(memory);
}

void wb_rcu_lock(void)
{
	rcu_read_lock();
}

void wb_rcu_unlock(void)
{
	rcu_read_unlock();
}

void wb_rcu_barrier(void)
{
	rcu_barrier();
}

struct srcu_struct *wb_srcu_new(void)
{
	struct srcu_struct *domain = kzalloc(sizeof(*domain), GFP_KERNEL_ACCOUNT);

	if (domain && init_srcu_struct(domain)) {
		kfree(domain);
		domain = NULL;
	}
	return domain;
}

void wb_srcu_free(struct srcu_struct *domain)
{
	cleanup_srcu_struct(domain);
	kfree(domain);
}

int wb_srcu_lock(struct srcu_struct *domain)
{
	return srcu_read_lock(domain);
}

void wb_srcu_unlock(struct srcu_struct *domain, int token)
{
	srcu_read_unlock(domain, token);
}

void wb_srcu_synchronize(struct srcu_struct *domain)
{
	synchronize_srcu_expedited(domain);
}

/* One lockdep class per rank: the core's classes have ranks of their own. */
#define RANKS 128
static struct lock_class_key lock_keys[RANKS];

static struct lock_class_key *lock_key(unsigned int rank)
{
	return &lock_keys[min_t(unsigned int, rank, RANKS - 1)];
}

struct mutex *wb_mutex_new(const char *name, unsigned int rank)
{
	struct mutex *lock = kzalloc(sizeof(*lock), GFP_KERNEL_ACCOUNT);

	if (lock)
		__mutex_init(lock, name, lock_key(rank));
	return lock;
}

void wb_mutex_lock(struct mutex *lock)
{
	mutex_lock(lock);
}

bool wb_mutex_lock_killable(struct mutex *lock)
{
	return !mutex_lock_killable(lock);
}

void wb_mutex_unlock(struct mutex *lock)
{
	mutex_unlock(lock);
}

void *wb_rwlock_new(const char *name, unsigned int rank)
{
	rwlock_t *lock = kzalloc(sizeof(*lock), GFP_KERNEL_ACCOUNT);

	if (lock) {
		rwlock_init(lock);
		lockdep_set_class_and_name(lock, lock_key(rank), name);
	}
	return lock;
}

void wb_read_lock(void *lock)
{
	read_lock((rwlock_t *)lock);
}

bool wb_read_trylock(void *lock)
{
	return read_trylock((rwlock_t *)lock);
}

void wb_read_unlock(void *lock)
{
	read_unlock((rwlock_t *)lock);
}

void wb_write_lock(void *lock)
{
	write_lock((rwlock_t *)lock);
}

void wb_write_unlock(void *lock)
{
	write_unlock((rwlock_t *)lock);
}

bool wb_rwlock_contended(void *lock)
{
	return rwlock_needbreak((rwlock_t *)lock);
}

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

static void taken(void *context)
{
}

/* The kernel reads no more bits of a mask than there are CPUs. */
void wb_kick_and_wait(const unsigned long *cpus)
{
	preempt_disable();
	smp_call_function_many(to_cpumask(cpus), taken, NULL, true);
	preempt_enable();
}

unsigned int wb_cpu_count(void)
{
	return nr_cpu_ids;
}

unsigned int wb_next_online(unsigned int from)
{
	return cpumask_next((int)from - 1, cpu_online_mask);
}

void wb_hold_cpus(void)
{
	cpus_read_lock();
}

void wb_unhold_cpus(void)
{
	cpus_read_unlock();
}

void wb_call_on(const unsigned long *cpus, void (*call)(void *), void *context)
{
	on_each_cpu_mask(to_cpumask(cpus), call, context, true);
}

/* Processor Trace stops for VMX operation where both do not go together. */
void wb_change_cr4(unsigned long set, unsigned long clear)
{
	if (set & X86_CR4_VMXE)
		intel_pt_handle_vmx(1);
	cr4_update_irqsoff(set, clear);
	if (clear & X86_CR4_VMXE)
		intel_pt_handle_vmx(0);
}

void wb_task_register_was_cut(void)
{
	invalidate_tss_limit();
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

bool wb_distrusts_predictions(void)
{
	return boot_cpu_has(X86_FEATURE_RSB_VMEXIT) ||
	       boot_cpu_has(X86_FEATURE_RSB_VMEXIT_LITE);
}

/*
 * Where the kernel looks for a mask that is put aside: a signal of that mask
 * is kept, even if nobody handles it.
 */
void wb_signals_mask(u64 mask)
{
	sigset_t signals;

	siginitset(&signals, mask);
	sigdelsetmask(&signals, sigmask(SIGKILL) | sigmask(SIGSTOP));
	sigprocmask(SIG_SETMASK, &signals, &current->real_blocked);
}

void wb_signals_unmask(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

u64 wb_boot_time(void)
{
	return ktime_get_boottime_ns();
}

u64 wb_wall_time(void)
{
	return ktime_get_real_ns();
}

bool wb_tsc_is_stable(void)
{
	return boot_cpu_has(X86_FEATURE_CONSTANT_TSC) &&
	       boot_cpu_has(X86_FEATURE_NONSTOP_TSC) && !check_tsc_unstable();
}

struct swait_queue_head *wb_queue_new(void)
{
	struct swait_queue_head *queue = kzalloc(sizeof(*queue), GFP_KERNEL_ACCOUNT);

	if (queue)
		init_swait_queue_head(queue);
	return queue;
}

bool wb_queue_wait(struct swait_queue_head *queue, bool interruptible,
		   bool (*ready)(void *), void *context)
{
	if (interruptible)
		return !swait_event_interruptible_exclusive(*queue, ready(context));
	swait_event_exclusive(*queue, ready(context));
	return true;
}

bool wb_queue_wake(struct swait_queue_head *queue)
{
	/* With the barrier that the look for sleepers needs. */
	if (!swq_has_sleeper(queue))
		return false;
	swake_up_all(queue);
	return true;
}

struct fpu_guest *wb_fpu_new(void)
{
	struct fpu_guest *fpu = kzalloc(sizeof(*fpu), GFP_KERNEL_ACCOUNT);

	if (fpu && !fpu_alloc_guest_fpstate(fpu)) {
		kfree(fpu);
		fpu = NULL;
	}
	return fpu;
}

void wb_fpu_free(struct fpu_guest *fpu)
{
	fpu_free_guest_fpstate(fpu);
	kfree(fpu);
}

void wb_fpu_swap(struct fpu_guest *fpu, bool enter)
{
	fpu_swap_kvm_fpstate(fpu, enter);
}

void wb_fpu_refresh(void)
{
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

/* Protection keys are kept elsewhere, by those who switch them; nobody does. */
bool wb_fpu_read(struct fpu_guest *fpu, void *into, size_t size)
{
	memset(into, 0, size);
	/* The kernel cuts a state short that does not fit. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 57)
	fpu_copy_guest_fpstate_to_uabi(fpu, into, size,
				       fpu->fpstate->user_xfeatures, 0);
#else
	fpu_copy_guest_fpstate_to_uabi(fpu, into, size, 0);
#endif
	return size >= fpu->uabi_size;
}

bool wb_fpu_write(struct fpu_guest *fpu, const void *from, size_t size)
{
	u32 keys = 0;

	if (size < fpu->uabi_size)
		return false;
	return !fpu_copy_uabi_to_guest_fpstate(fpu, from,
					       fpu->fpstate->user_xfeatures,
					       &keys);
}

void wb_info(const char *text, int length)
{
	pr_info_ratelimited("waterbear: %.*s\n", length, text);
}

void wb_bug(const char *text, int length)
{
	WARN_ONCE(1, "waterbear: %.*s\n", length, text);
}
