// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The memory of the process that owns a VM, and how much of it is pinned. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/lock.h>
#include <sys/proc.h>
#include <sys/queue.h>
#include <sys/resourcevar.h>
#include <sys/sx.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/pmap.h>
#include <vm/vm_map.h>
#include <vm/vm_extern.h>

#include "freebsd.h"
#include "glue.h"

/*
 * The vmspace is held: so it is not used for another process, nor after exec
 * for this one.
 */
struct wb_space {
	SLIST_ENTRY(wb_space) next;
	struct vmspace *vm;
	struct sx slots_change;
	u_long pages;
};

static SLIST_HEAD(, wb_space) spaces = SLIST_HEAD_INITIALIZER(spaces);
static struct sx spaces_lock;
SX_SYSINIT(waterbear_spaces, &spaces_lock, "waterbear spaces");

struct wb_space *
wb_space_hold(void)
{
	struct wb_space *space;
	struct vmspace *vm = vmspace_acquire_ref(curproc);

	if (vm == NULL)
		return (NULL);
	space = wb_alloc(sizeof(*space), sizeof(void *));
	space->vm = vm;
	sx_init(&space->slots_change, "waterbear slots change");
	sx_xlock(&spaces_lock);
	SLIST_INSERT_HEAD(&spaces, space, next);
	sx_xunlock(&spaces_lock);
	return (space);
}

void
wb_space_drop(struct wb_space *space)
{
	sx_xlock(&spaces_lock);
	SLIST_REMOVE(&spaces, space, wb_space, next);
	sx_xunlock(&spaces_lock);
	sx_destroy(&space->slots_change);
	vmspace_free(space->vm);
	wb_free(space);
}

bool
wb_space_is_current(const struct wb_space *space)
{
	return (curproc->p_vmspace == space->vm);
}

/* The kernel does not tell: see wb_resolve. */
int
wb_space_watch(struct wb_space *space, const void *vm)
{
	return (0);
}

void
wb_space_unwatch(struct wb_space *space)
{
}

void
wb_space_lock(struct wb_space *space)
{
	sx_xlock(&space->slots_change);
}

void
wb_space_unlock(struct wb_space *space)
{
	sx_xunlock(&space->slots_change);
}

/* As mlock(2) counts; of all VMs of the process. */
bool
wb_space_charge(struct wb_space *space, u_long pages)
{
	u_long most = atop(lim_cur(curthread, RLIMIT_MEMLOCK));
	u_long others = 0;
	struct wb_space *other;
	bool fits;

	sx_xlock(&spaces_lock);
	SLIST_FOREACH(other, &spaces, next)
		if (other != space && other->vm == space->vm)
			others += other->pages;
	fits = pages <= space->pages || (pages <= most && others +
	    pmap_wired_count(vmspace_pmap(space->vm)) <= most - pages);
	if (fits)
		space->pages = pages;
	sx_xunlock(&spaces_lock);
	return (fits);
}

/*
 * Without this a fork would leave the guest with the child's or the parent's
 * pages, whoever writes last. What is not mapped, or may not be changed so,
 * stays as it is.
 */
void
wb_share_with_children(u_long start, u_long size)
{
	(void)vm_map_inherit(&curproc->p_vmspace->vm_map, start, start + size,
	    VM_INHERIT_SHARE);
}
