// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The process that owns a VM: its memory, news of its changes, its bells. */
#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/version.h>

#include "glue.h"

/* The structure `mm` stays, its memory goes with the process. */
struct wb_space {
	struct mm_struct *mm;
	struct mmu_notifier notifier;
	/* NULL as long as the notifier is not registered. */
	const void *vm;
};

/* NULL also for a thread of the kernel's, which owns no memory. */
struct wb_space *wb_space_hold(void)
{
	struct mm_struct *mm = current->mm;
	struct wb_space *space = mm ? wb_alloc(sizeof(*space), 1) : NULL;

	if (space) {
		space->mm = mm;
		mmgrab(mm);
	}
	return space;
}

void wb_space_drop(struct wb_space *space)
{
	mmdrop(space->mm);
	wb_free(space);
}

bool wb_space_is_current(const struct wb_space *space)
{
	return current->mm == space->mm;
}

static const void *vm_of(struct mmu_notifier *notifier)
{
	return container_of(notifier, struct wb_space, notifier)->vm;
}

static int range_start(struct mmu_notifier *notifier,
		       const struct mmu_notifier_range *range)
{
	waterbear_change_begin(vm_of(notifier), range->start, range->end,
			       mmu_notifier_range_blockable(range));
	return 0;
}

static void range_end(struct mmu_notifier *notifier,
		      const struct mmu_notifier_range *range)
{
	waterbear_change_end(vm_of(notifier), range->start, range->end);
}

/* Under a page-table lock: does not sleep. */
static int age(struct mmu_notifier *notifier, struct mm_struct *mm,
	       unsigned long start, unsigned long end)
{
	return waterbear_age(vm_of(notifier), start, end);
}

static int is_young(struct mmu_notifier *notifier, struct mm_struct *mm,
		    unsigned long address)
{
	return waterbear_is_young(vm_of(notifier), address, address + PAGE_SIZE);
}

/* The process is gone: nothing of its memory stays mapped. */
static void gone(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	waterbear_change_begin(vm_of(notifier), 0, TASK_SIZE_MAX, true);
	waterbear_change_end(vm_of(notifier), 0, TASK_SIZE_MAX);
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start = range_start,
	.invalidate_range_end = range_end,
	.clear_flush_young = age,
	.clear_young = age,
	.test_young = is_young,
	.release = gone,
};

int wb_space_watch(struct wb_space *space, const void *vm)
{
	int error;

	space->vm = vm;
	space->notifier.ops = &notifier_ops;
	error = mmu_notifier_register(&space->notifier, space->mm);
	if (error)
		space->vm = NULL;
	return error;
}

void wb_space_unwatch(struct wb_space *space)
{
	if (space->vm)
		mmu_notifier_unregister(&space->notifier, space->mm);
}

struct wb_bell *wb_bell_get(int descriptor, int *error)
{
	struct eventfd_ctx *bell = eventfd_ctx_fdget(descriptor);

	if (!IS_ERR(bell))
		return (struct wb_bell *)bell;
	*error = PTR_ERR(bell);
	return NULL;
}

void wb_bell_ring(struct wb_bell *bell)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal((struct eventfd_ctx *)bell);
#else
	eventfd_signal((struct eventfd_ctx *)bell, 1);
#endif
}

void wb_bell_put(struct wb_bell *bell)
{
	eventfd_ctx_put((struct eventfd_ctx *)bell);
}
