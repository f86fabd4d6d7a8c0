// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Memory of the kernel's. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/malloc.h>

#include <vm/vm.h>
#include <vm/vm_page.h>
#include <vm/vm_pageout.h>

#include <machine/vmparam.h>

#include "freebsd.h"
#include "glue.h"

static MALLOC_DEFINE(M_WATERBEAR, "waterbear", "Waterbear");

/* How often an allocation is tried anew when memory is short for a moment. */
#define	TRIES	3
/* Of so many bytes the kernel always has some in the end. */
#define	SMALL	(64 * 1024)

void *
wb_alloc_pages(unsigned long count)
{
	const int how = VM_ALLOC_WIRED | VM_ALLOC_ZERO;
	vm_page_t pages;

	for (int try = 0; try < TRIES; try++) {
		if (count == 1)
			pages = vm_page_alloc_noobj(how);
		else
			pages = vm_page_alloc_noobj_contig(how, count, 0,
			    ~(vm_paddr_t)0, PAGE_SIZE, 0, VM_MEMATTR_DEFAULT);
		if (pages != NULL)
			return ((void *)PHYS_TO_DMAP(VM_PAGE_TO_PHYS(pages)));
		vm_wait(NULL);
	}
	return (NULL);
}

void
wb_free_pages(void *pages, u_long count)
{
	vm_page_t page = PHYS_TO_VM_PAGE(DMAP_TO_PHYS((vm_offset_t)pages));

	for (; count != 0; count--, page++)
		if (vm_page_unwire_noq(page))
			vm_page_free(page);
}

/*
 * Keeps a page from being freed that others may free. vm_page_wire(9) wants
 * the page to be in an object.
 */
void
wb_hold_page(u_long pfn)
{
	atomic_add_int(&PHYS_TO_VM_PAGE(ptoa(pfn))->ref_count, 1);
}

void
wb_unhold_page(u_long pfn)
{
	wb_free_pages((void *)PHYS_TO_DMAP(ptoa(pfn)), 1);
}

void *
wb_alloc(size_t size, size_t alignment)
{
	void *memory;

	if (size <= SMALL)
		return (malloc_aligned(size, alignment, M_WATERBEAR,
		    M_WAITOK | M_ZERO));
	for (int try = 0; try < TRIES; try++) {
		memory = malloc_aligned(size, alignment, M_WATERBEAR,
		    M_NOWAIT | M_ZERO);
		if (memory != NULL)
			return (memory);
		vm_wait(NULL);
	}
	return (NULL);
}

void
wb_free(void *memory)
{
	free(memory, M_WATERBEAR);
}
