// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Read sections, and freeing behind them.
 *
 * epoch(9) wants memory of the reader's for each section, or keeps the reader
 * in a critical section, in which pages cannot be given back. So a CPU counts
 * its readers, who stay on it but may be preempted and may block on mutexes.
 * Its count passes zero again and again, and it counts that as well, in the
 * other half of the same word: whoever saw the count pass zero after it
 * unlinked a page knows that this CPU's readers do not have it.
 */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/lock.h>
#include <sys/malloc.h>
#include <sys/mutex.h>
#include <sys/proc.h>
#include <sys/sched.h>
#include <sys/smp.h>
#include <sys/taskqueue.h>

#include <vm/vm.h>
#include <vm/vm_page.h>

#include <machine/vmparam.h>

#include "freebsd.h"
#include "glue.h"

#define	READERS(word)	((uint32_t)(word))
#define	PASSED		(1ul << 32)

struct readers {
	volatile u_long word;
} __aligned(CACHE_LINE_SIZE);

static struct readers *readers;
/* Pages to free, each with the next one where a free page has its links. */
static volatile uintptr_t waiting;
static struct task freer;

static uintptr_t *
next_of(vm_page_t page)
{
	return ((uintptr_t *)&page->plinks);
}

void
wb_rcu_lock(void)
{
	sched_pin();
	/* A locked addition is a full barrier: pairs with free_all. */
	atomic_add_acq_long(&readers[curcpu].word, 1);
}

void
wb_rcu_unlock(void)
{
	volatile u_long *word = &readers[curcpu].word;
	u_long old = *word, new;

	do {
		new = old - 1;
		if (READERS(new) == 0)
			new += PASSED;
	} while (!atomic_fcmpset_rel_long(word, &old, new));
	sched_unpin();
}

/* Waits until every section that is open now has been closed. */
static void
wait_for_readers(void)
{
	u_long then;
	u_int cpu;

	atomic_thread_fence_seq_cst();
	CPU_FOREACH(cpu) {
		then = atomic_load_acq_long(&readers[cpu].word);
		if (READERS(then) == 0)
			continue;
		while ((atomic_load_acq_long(&readers[cpu].word) ^ then) <
		    PASSED)
			pause("wbrcu", 1);
	}
}

static void
free_all(void *context, int pending)
{
	uintptr_t page = atomic_swap_long(&waiting, 0);
	uintptr_t next;

	if (page == 0)
		return;
	wait_for_readers();
	for (; page != 0; page = next) {
		next = *next_of((vm_page_t)page);
		vm_page_unwire_noq((vm_page_t)page);
		vm_page_free((vm_page_t)page);
	}
}

void
wb_free_page_deferred(void *at)
{
	vm_page_t page = PHYS_TO_VM_PAGE(DMAP_TO_PHYS((vm_offset_t)at));
	uintptr_t first = waiting;

	do {
		*next_of(page) = first;
	} while (!atomic_fcmpset_rel_long(&waiting, &first, (uintptr_t)page));
	taskqueue_enqueue(taskqueue_thread, &freer);
}

void
wb_rcu_barrier(void)
{
	taskqueue_drain(taskqueue_thread, &freer);
}

int
wb_rcu_start(void)
{
	readers = wb_alloc((mp_maxid + 1) * sizeof(*readers), CACHE_LINE_SIZE);
	if (readers == NULL)
		return (ENOMEM);
	TASK_INIT(&freer, 0, free_all, NULL);
	return (0);
}

void
wb_rcu_stop(void)
{
	wb_rcu_barrier();
	wb_free(readers);
}
