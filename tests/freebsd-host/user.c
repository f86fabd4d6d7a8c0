// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Processes and their memory. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/file.h>
#include <sys/proc.h>
#include <sys/refcount.h>
#include <sys/resourcevar.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/pmap.h>
#include <vm/vm_map.h>
#include <vm/vm_extern.h>
#include <vm/vm_object.h>
#include <vm/vm_page.h>

#include <machine/cpufunc.h>

#include "host.h"

/* Pages that one process has, or several after a fork. */
struct memory {
	u_int users;
	u_long count;
	vm_page_t pages[];
};

struct region {
	vm_offset_t start;
	vm_size_t size;
	vm_prot_t access;
	vm_inherit_t inherit;
	/* One of the two. */
	struct memory *memory;
	vm_object_t object;
	vm_ooffset_t offset;
};

#define	REGIONS		32
/* Where processes have their memory: nothing of the kernel's is there. */
#define	USER_BEGIN	0x100000000000ul

struct space {
	struct vmspace vm;
	vm_offset_t next;
	struct region regions[REGIONS];
};

struct process {
	struct proc proc;
	struct plimit limits;
	struct file *files[DESCRIPTORS];
};

/* Guards what is mapped, of all processes. */
static volatile u_int maps;

static void
lock_maps(void)
{
	uint64_t begin = 0;

	while (atomic_cmpset_acq_int(&maps, 0, 1) == 0)
		host_spin(&begin, "the maps");
}

static void
unlock_maps(void)
{
	atomic_store_rel_int(&maps, 0);
}

static struct space *
space_new(void)
{
	struct space *space = bare_alloc(sizeof(*space), sizeof(void *));

	space->vm.vm_refcnt = 1;
	space->next = USER_BEGIN;
	COUNT(spaces, 1);
	return (space);
}

static size_t
memory_size(u_long count)
{
	return (sizeof(struct memory) + count * sizeof(vm_page_t));
}

static struct memory *
memory_new(u_long count)
{
	struct memory *memory = bare_alloc(memory_size(count), sizeof(void *));

	memory->users = 1;
	memory->count = count;
	return (memory);
}

static void
region_end(struct region *region)
{
	struct memory *memory = region->memory;

	if (region->object != NULL)
		vm_object_deallocate(region->object);
	if (memory != NULL && atomic_fetchadd_int(&memory->users, -1) == 1) {
		for (u_long i = 0; i < memory->count; i++)
			if (memory->pages[i] != NULL)
				host_page_drop(memory->pages[i]);
		bare_free(memory, memory_size(memory->count), sizeof(void *));
	}
	region->size = 0;
}

struct vmspace *
vmspace_acquire_ref(struct proc *proc)
{
	atomic_add_int(&proc->p_vmspace->vm_refcnt, 1);
	return (proc->p_vmspace);
}

void
vmspace_free(struct vmspace *vm)
{
	struct space *space = __containerof(vm, struct space, vm);

	SLEEP_RULE();
	if (atomic_fetchadd_int(&vm->vm_refcnt, -1) != 1)
		return;
	for (int i = 0; i < REGIONS; i++)
		if (space->regions[i].size != 0)
			region_end(&space->regions[i]);
	bare_free(space, sizeof(*space), sizeof(void *));
	COUNT(spaces, -1);
}

struct process *
host_process_new(void)
{
	struct process *process = bare_alloc(sizeof(*process), sizeof(void *));

	process->proc.p_vmspace = &space_new()->vm;
	host_limit(process, RLIM_INFINITY);
	return (process);
}

void
host_limit(struct process *process, u_long bytes)
{
	process->limits.pl_rlimit[RLIMIT_MEMLOCK].rlim_cur = bytes;
}

struct process *
host_process(struct thread *td)
{
	return (__containerof(td->td_proc, struct process, proc));
}

struct file **
host_descriptor(struct process *process, int number)
{
	return (&process->files[number]);
}

/* The calling thread is the process's from now on. */
void
host_enter(struct process *process)
{
	curthread->td_proc = &process->proc;
	curthread->td_limit = &process->limits;
}

vm_map_t
host_map_of(struct process *process)
{
	return (&process->proc.p_vmspace->vm_map);
}

/* Nobody of the process runs any more. */
void
host_exit(struct process *process)
{
	for (int i = 0; i < DESCRIPTORS; i++)
		if (process->files[i] != NULL)
			host_close(curthread, &process->files[i]);
	vmspace_free(process->proc.p_vmspace);
	bare_free(process, sizeof(*process), sizeof(void *));
}

void
host_exec(struct process *process)
{
	struct vmspace *old = process->proc.p_vmspace;

	process->proc.p_vmspace = &space_new()->vm;
	vmspace_free(old);
}

static struct space *
space_of(vm_map_t map)
{
	return (__containerof(map, struct space, vm.vm_map));
}

int
host_map(vm_map_t map, vm_offset_t *address, vm_size_t size, vm_prot_t access,
    vm_object_t object, vm_ooffset_t offset)
{
	struct space *space = space_of(map);
	struct region *region = space->regions;

	lock_maps();
	while (region != space->regions + REGIONS && region->size != 0)
		region++;
	if (region == space->regions + REGIONS) {
		unlock_maps();
		return (ENOMEM);
	}
	size = round_page(size);
	*region = (struct region) { space->next, size, access,
	    VM_INHERIT_COPY, NULL, object, offset };
	if (object == NULL)
		region->memory = memory_new(atop(size));
	/* With a hole behind it. */
	space->next += size + PAGE_SIZE;
	*address = region->start;
	unlock_maps();
	return (0);
}

int
host_unmap(vm_map_t map, vm_offset_t address)
{
	struct space *space = space_of(map);
	struct region gone;

	for (int i = 0; i < REGIONS; i++) {
		lock_maps();
		gone = space->regions[i];
		if (gone.size == 0 || gone.start != address) {
			unlock_maps();
			continue;
		}
		space->regions[i].size = 0;
		unlock_maps();
		region_end(&gone);
		return (0);
	}
	return (EINVAL);
}

int
vm_map_inherit(vm_map_t map, vm_offset_t start, vm_offset_t end,
    vm_inherit_t inherit)
{
	struct space *space = space_of(map);

	SLEEP_RULE();
	lock_maps();
	for (struct region *it = space->regions; it != space->regions + REGIONS;
	    it++)
		if (it->size != 0 && it->start < end &&
		    it->start + it->size > start)
			it->inherit = inherit;
	unlock_maps();
	return (KERN_SUCCESS);
}

/*
 * What is not shared is as if the parent were the first to write to each page:
 * it gets a copy, and the child keeps the page that was there.
 */
struct process *
host_fork(struct process *parent)
{
	struct process *child = host_process_new();
	struct space *old = space_of(host_map_of(parent));
	struct space *new = space_of(host_map_of(child));

	child->limits = parent->limits;
	for (int i = 0; i < DESCRIPTORS; i++) {
		child->files[i] = parent->files[i];
		if (child->files[i] != NULL)
			refcount_acquire(&child->files[i]->f_count);
	}
	new->next = old->next;
	for (int i = 0; i < REGIONS; i++) {
		struct region *region = &old->regions[i];

		if (region->size == 0)
			continue;
		new->regions[i] = *region;
		if (region->object != NULL) {
			atomic_add_int(&region->object->ref_count, 1);
			continue;
		}
		if (region->inherit == VM_INHERIT_SHARE) {
			atomic_add_int(&region->memory->users, 1);
			continue;
		}
		region->memory = memory_new(atop(region->size));
		for (u_long at = 0; at < atop(region->size); at++) {
			vm_page_t page = new->regions[i].memory->pages[at];

			if (page == NULL)
				continue;
			region->memory->pages[at] = host_page_new();
			memcpy(host_page_bytes(region->memory->pages[at]),
			    host_page_bytes(page), PAGE_SIZE);
		}
	}
	return (child);
}

/* The page behind an address, with one more reference if it is wanted. */
vm_page_t
host_find(vm_map_t map, vm_offset_t address, vm_prot_t access, bool hold)
{
	struct space *space = space_of(map);
	vm_page_t page = NULL, *place;
	vm_pindex_t index;

	SLEEP_RULE();
	lock_maps();
	for (struct region *it = space->regions; it != space->regions + REGIONS;
	    it++) {
		if (address < it->start || address - it->start >= it->size ||
		    (access & ~it->access) != 0)
			continue;
		index = atop(address - it->start);
		if (it->object != NULL) {
			page = host_object_page(it->object,
			    OFF_TO_IDX(it->offset) + index);
			break;
		}
		place = &it->memory->pages[index];
		if (*place == NULL)
			*place = host_page_new();
		page = *place;
		break;
	}
	if (page != NULL && hold) {
		atomic_add_int(&page->ref_count, 1);
		COUNT(wired, 1);
	}
	unlock_maps();
	return (page);
}
