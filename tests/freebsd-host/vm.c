// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Objects that are mapped, with pages as a driver has them. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/lock.h>
#include <sys/rwlock.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/pmap.h>
#include <vm/vm_extern.h>
#include <vm/vm_object.h>
#include <vm/vm_page.h>
#include <vm/vm_pager.h>

#include "host.h"

#define	PAGES	16

struct object {
	struct vm_object object;
	vm_page_t pages[PAGES];
};

static struct object *
object_of(vm_object_t object)
{
	return (__containerof(object, struct object, object));
}

vm_object_t
cdev_pager_allocate(void *handle, enum obj_type kind,
    const struct cdev_pager_ops *methods, vm_ooffset_t size, vm_prot_t access,
    vm_ooffset_t offset, struct ucred *ucred)
{
	struct object *new;
	vm_object_t object;
	u_short color;

	SLEEP_RULE();
	if (kind != OBJT_DEVICE || size > ptoa(PAGES))
		panic("the test host has no such objects");
	if (host_fails() ||
	    methods->cdev_pg_ctor(handle, size, access, offset, ucred,
	    &color) != 0)
		return (NULL);
	new = bare_alloc(sizeof(*new), sizeof(void *));
	object = &new->object;
	rw_init(&object->lock, "object");
	object->ref_count = 1;
	object->size = OFF_TO_IDX(size);
	object->handle = handle;
	object->un_pager.devp.ops = methods;
	COUNT(objects, 1);
	return (object);
}

vm_page_t
vm_page_getfake(vm_paddr_t at, vm_memattr_t kind)
{
	vm_page_t page = bare_alloc(sizeof(*page), sizeof(void *));

	SLEEP_RULE();
	page->phys_addr = at;
	page->flags = PG_FICTITIOUS;
	page->oflags = VPO_UNMANAGED;
	page->ref_count = VPRC_OBJREF + 1;
	page->md.pat_mode = VM_MEMATTR_WRITE_BACK;
	return (page);
}

void
vm_page_replace(vm_page_t new, vm_object_t object, vm_pindex_t index,
    vm_page_t old)
{
	rw_assert(&object->lock, RA_WLOCKED);
	if (object_of(object)->pages[index] != old)
		panic("another page is to be replaced");
	new->object = object;
	new->pindex = index;
	object_of(object)->pages[index] = new;
	bare_free(old, sizeof(*old), sizeof(void *));
}

/* A process has touched a page. */
vm_page_t
host_object_page(vm_object_t object, vm_pindex_t index)
{
	vm_page_t *place = &object_of(object)->pages[index];
	vm_page_t page;

	if (index >= object->size)
		return (NULL);
	if (*place != NULL)
		return (*place);
	page = bare_alloc(sizeof(*page), sizeof(void *));
	page->pindex = index;
	page->object = object;
	*place = page;
	rw_wlock(&object->lock);
	if (object->un_pager.devp.ops->cdev_pg_fault(object,
	    IDX_TO_OFF(index), VM_PROT_READ, &page) != VM_PAGER_OK)
		panic("the pager has no page");
	rw_wunlock(&object->lock);
	if (*place != page || !vm_page_all_valid(page))
		panic("the pager has not put its page there");
	return (page);
}

void
vm_object_deallocate(vm_object_t object)
{
	struct object *old = object_of(object);
	vm_page_t page;

	SLEEP_RULE();
	if (atomic_fetchadd_int(&object->ref_count, -1) != 1)
		return;
	for (int i = 0; i < PAGES; i++) {
		page = old->pages[i];
		if (page == NULL)
			continue;
		if (page->ref_count != VPRC_OBJREF + 1)
			panic("a page of an object is held that goes");
		bare_free(page, sizeof(*page), sizeof(void *));
	}
	object->un_pager.devp.ops->cdev_pg_dtor(object->handle);
	rw_destroy(&object->lock);
	bare_free(old, sizeof(*old), sizeof(void *));
	COUNT(objects, -1);
}

int
vm_mmap_object(vm_map_t map, vm_offset_t *address, vm_size_t size,
    vm_prot_t access, vm_prot_t most, int flags, vm_object_t object,
    vm_ooffset_t offset, boolean_t counted, struct thread *td)
{
	SLEEP_RULE();
	if ((access & ~most) != 0)
		return (EACCES);
	if (host_fails())
		return (ENOMEM);
	return (host_map(map, address, size, access, object, offset));
}
