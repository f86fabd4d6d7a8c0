// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* User memory: pages behind addresses, and bytes. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/lock.h>
#include <sys/proc.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/pmap.h>
#include <vm/vm_map.h>
#include <vm/vm_extern.h>
#include <vm/vm_page.h>

#include "glue.h"

/*
 * Who gives a page back knows its frame only. That leads to another page than
 * this one if this is a stand-in, as for the memory of devices and of vCPUs.
 */
static bool
hold(u_long address, vm_prot_t access, vm_page_t *page)
{
	if (vm_fault_quick_hold_pages(&curproc->p_vmspace->vm_map,
	    trunc_page(address), PAGE_SIZE, access, page, 1) != 1)
		return (false);
	if (PHYS_TO_VM_PAGE(VM_PAGE_TO_PHYS(*page)) == *page)
		return (true);
	vm_page_unwire(*page, PQ_ACTIVE);
	return (false);
}

/*
 * Nobody tells us when the owner's first write gives it another page than the
 * one that it reads. So that happens now, where the owner may write.
 */
int
wb_resolve(struct wb_space *space, u_long address, bool write,
    struct wb_page *found)
{
	vm_page_t page;

	if (!wb_space_is_current(space))
		return (-EFAULT);
	found->writable = hold(address, VM_PROT_READ | VM_PROT_WRITE, &page);
	if (!found->writable && (write || !hold(address, VM_PROT_READ, &page)))
		return (-EFAULT);
	found->pfn = atop(VM_PAGE_TO_PHYS(page));
	/* A page of a large mapping could go while another one is held. */
	found->shift = PAGE_SHIFT;
	found->uncached = pmap_page_get_memattr(page) != VM_MEMATTR_WRITE_BACK;
	return (0);
}

/* The page may have been cut off its file meanwhile: then it is nobody's. */
void
wb_release_page(u_long pfn, bool dirty)
{
	vm_page_t page = PHYS_TO_VM_PAGE(ptoa(pfn));

	if (dirty && vm_page_all_valid(page))
		vm_page_dirty(page);
	vm_page_unwire(page, PQ_ACTIVE);
}

bool
wb_copy_in(void *to, u_long from, size_t size)
{
	return (copyin((const void *)from, to, size) == 0);
}

bool
wb_copy_out(u_long to, const void *from, size_t size)
{
	return (copyout(from, (void *)to, size) == 0);
}

/* Of these sizes, and aligned, an access is one access. */
#define	ONE_ACCESS(at, size, type)					\
	((size) == sizeof(type) && (at) % sizeof(type) == 0)

bool
wb_read(struct wb_space *space, void *to, u_long from, size_t size)
{
	const void *user = (const void *)from;
	int half;

	if (!wb_space_is_current(space))
		return (false);
	if (ONE_ACCESS(from, size, int64_t))
		return (fueword64(user, to) == 0);
	if (ONE_ACCESS(from, size, int32_t))
		return (fueword32(user, to) == 0);
	if (ONE_ACCESS(from, size, int16_t)) {
		half = fuword16(user);
		*(uint16_t *)to = half;
		return (half != -1);
	}
	return (wb_copy_in(to, from, size));
}

bool
wb_write(struct wb_space *space, u_long to, const void *from, size_t size)
{
	void *user = (void *)to;

	if (!wb_space_is_current(space))
		return (false);
	if (ONE_ACCESS(to, size, int64_t))
		return (suword64(user, *(const int64_t *)from) == 0);
	if (ONE_ACCESS(to, size, int32_t))
		return (suword32(user, *(const int32_t *)from) == 0);
	if (ONE_ACCESS(to, size, int16_t))
		return (suword16(user, *(const int16_t *)from) == 0);
	return (wb_copy_out(to, from, size));
}

/*
 * What was there comes back in *old. The kernel's functions fail for no reason
 * now and then; and they write, if only what was there, so that memory that
 * may not be written is found out.
 */
static bool
exchange_long(u_long at, uint64_t *old, uint64_t new)
{
	u_long seen;
	int result;

	do {
		result = casueword((volatile u_long *)at, *old, &seen, new);
		if (result == -1)
			return (false);
	} while (result != 0 && seen == *old);
	*old = seen;
	return (true);
}

static bool
exchange_within_int(u_long at, size_t size, uint64_t *old, uint64_t new)
{
	volatile uint32_t *word = (volatile uint32_t *)(at & ~3ul);
	const u_int shift = (at & 3) * 8;
	const uint32_t mask = (uint32_t)~0 >> (32 - 8 * size);
	uint32_t was, seen, next, part;
	int result;

	if (fueword32(word, (int32_t *)&was) != 0)
		return (false);
	for (;;) {
		part = was >> shift & mask;
		next = was;
		if (part == *old)
			next = (was & ~(mask << shift)) | (uint32_t)new << shift;
		result = casueword32(word, was, &seen, next);
		if (result == -1)
			return (false);
		if (result == 0)
			break;
		was = seen;
	}
	*old = part;
	return (true);
}

bool
wb_exchange(struct wb_space *space, u_long at, size_t size, uint64_t *old,
    uint64_t new)
{
	if (!wb_space_is_current(space))
		return (false);
	if (size == sizeof(uint64_t))
		return (exchange_long(at, old, new));
	return (exchange_within_int(at, size, old, new));
}
