// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The calling thread: yielding, signals, sleeping. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/lock.h>
#include <sys/proc.h>
#include <sys/signalvar.h>
#include <sys/sleepqueue.h>
#include <sys/syscallsubr.h>

#include "glue.h"

bool
wb_should_yield(void)
{
	struct thread *td = curthread;

	return (td->td_ast != 0 || td->td_owepreempt != 0);
}

/*
 * The switch takes up what the scheduler asked for. Other threads of the CPU
 * would wait for as long as the guest spins if this one kept the priority that
 * it came with: so it gets the one that it has in user space by now.
 */
void
wb_yield(void)
{
	kern_yield(PRI_USER);
}

/*
 * Signals, and everything else that the kernel does with a thread on its way
 * to user space: suspending it, ending it with its process, accounting.
 */
bool
wb_signal_pending(void)
{
	return ((curthread->td_ast & ~TDAI(TDA_SCHED)) != 0);
}

/* Either of these. */
bool
wb_held_up(void)
{
	return (wb_should_yield());
}

void
wb_signals_mask(uint64_t mask, struct wb_signals *before)
{
	sigset_t signals, old;

	_Static_assert(sizeof(old) == sizeof(*before), "as many signals");
	kern_sigprocmask(curthread, SIG_SETMASK, NULL, &signals, 0);
	signals.__bits[0] = (uint32_t)mask;
	signals.__bits[1] = mask >> 32;
	kern_sigprocmask(curthread, SIG_SETMASK, &signals, &old, 0);
	memcpy(before, &old, sizeof(old));
}

void
wb_signals_unmask(const struct wb_signals *before)
{
	sigset_t signals;

	memcpy(&signals, before, sizeof(signals));
	kern_sigprocmask(curthread, SIG_SETMASK, &signals, NULL, 0);
}

/*
 * A waker may be in a critical section, where nothing that blocks can be
 * locked; the kernel's own sleep queues have spin locks.
 */
struct wb_queue {
	volatile u_int sleepers;
};

struct wb_queue *
wb_queue_new(void)
{
	return (wb_alloc(sizeof(struct wb_queue), sizeof(void *)));
}

void
wb_queue_free(struct wb_queue *queue)
{
	wb_free(queue);
}

bool
wb_queue_wait(struct wb_queue *queue, bool interruptible,
    bool (*ready)(void *), void *context)
{
	const int flags = SLEEPQ_SLEEP |
	    (interruptible ? SLEEPQ_INTERRUPTIBLE : 0);
	bool is_ready;
	int error = 0;

	/* Fully ordered, like the fence in wb_queue_wake. */
	atomic_add_acq_int(&queue->sleepers, 1);
	for (;;) {
		sleepq_lock(queue);
		is_ready = ready(context);
		if (is_ready || error != 0) {
			sleepq_release(queue);
			break;
		}
		sleepq_add(queue, NULL, "wbvcpu", flags, 0);
		if (interruptible)
			error = sleepq_wait_sig(queue, 0);
		else
			sleepq_wait(queue, 0);
	}
	atomic_subtract_rel_int(&queue->sleepers, 1);
	return (is_ready);
}

bool
wb_queue_wake(struct wb_queue *queue)
{
	atomic_thread_fence_seq_cst();
	if (atomic_load_int(&queue->sleepers) == 0)
		return (false);
	sleepq_lock(queue);
	sleepq_broadcast(queue, SLEEPQ_SLEEP, 0, 0);
	sleepq_release(queue);
	return (true);
}
