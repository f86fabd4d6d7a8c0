// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Pages, malloc(9), and how often allocating may succeed. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/malloc.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/pmap.h>
#include <vm/vm_page.h>
#include <vm/vm_pageout.h>

#include <machine/vmparam.h>

#include "host.h"

struct counts counts;

/* The direct map, as the bare port maps it. */
struct kva_layout_s kva_layout;

static struct vm_page *pages;
static u_long page_count;

void
host_memory_start(u_long frames)
{
	page_count = frames;
	pages = bare_alloc(frames * sizeof(*pages), PAGE_SIZE);
	if (pages == NULL)
		panic("no memory for the pages' structures");
	for (u_long frame = 0; frame < frames; frame++) {
		pages[frame].phys_addr = ptoa(frame);
		pages[frame].md.pat_mode = VM_MEMATTR_WRITE_BACK;
	}
	kva_layout.dmap_low = 0xfffff80000000000;
	kva_layout.dmap_high = kva_layout.dmap_low + (4ul << 30);
}

/*
 * Failures: after so many successes everything that may fail does, until the
 * test says otherwise. Negative: nothing fails.
 */
long host_successes = -1;
long host_attempts;

bool
host_fails(void)
{
	atomic_add_long((u_long *)&host_attempts, 1);
	if (host_successes < 0)
		return (false);
	if (host_successes == 0)
		return (true);
	host_successes--;
	return (false);
}

vm_page_t
PHYS_TO_VM_PAGE(vm_paddr_t at)
{
	if (atop(at) >= page_count)
		panic("PHYS_TO_VM_PAGE(%lx): there is no such page", at);
	return (&pages[atop(at)]);
}

char *
host_page_bytes(vm_page_t page)
{
	return ((char *)PHYS_TO_DMAP(VM_PAGE_TO_PHYS(page)));
}

static vm_page_t
allocate(u_long count, u_int references)
{
	void *memory = bare_alloc(count * PAGE_SIZE, PAGE_SIZE);
	vm_page_t first;

	if (memory == NULL)
		panic("the test host has too little memory");
	first = PHYS_TO_VM_PAGE((vm_paddr_t)memory);
	for (u_long i = 0; i < count; i++) {
		if (first[i].ref_count != 0)
			panic("a page was freed that is in use");
		first[i].ref_count = references;
		first[i].valid = 0;
		first[i].dirty = 0;
		first[i].object = NULL;
	}
	return (first);
}

static void
give_back(vm_page_t page)
{
	/* Whoever still uses the page is found out. */
	memset(host_page_bytes(page), 0xdb, PAGE_SIZE);
	bare_free((void *)VM_PAGE_TO_PHYS(page), PAGE_SIZE, PAGE_SIZE);
}

vm_page_t
vm_page_alloc_noobj_contig(int how, u_long count, vm_paddr_t low,
    vm_paddr_t high, u_long alignment, vm_paddr_t boundary, vm_memattr_t kind)
{
	BLOCK_RULE();
	if ((how & VM_ALLOC_WIRED) == 0 || (how & VM_ALLOC_ZERO) == 0)
		panic("the test host knows only wired pages of zeros");
	if (host_fails())
		return (NULL);
	COUNT(pages, count);
	return (allocate(count, 1));
}

vm_page_t
vm_page_alloc_noobj(int how)
{
	return (vm_page_alloc_noobj_contig(how, 1, 0, ~(vm_paddr_t)0, PAGE_SIZE,
	    0, VM_MEMATTR_DEFAULT));
}

void
vm_wait(vm_object_t object)
{
	SLEEP_RULE();
}

static u_int
unwire(vm_page_t page)
{
	u_int before = atomic_fetchadd_int(&page->ref_count, -1);

	if ((before & ~(VPRC_OBJREF | VPRC_BLOCKED)) == 0)
		panic("page %lx is not wired", VM_PAGE_TO_PHYS(page));
	return (before - 1);
}

bool
vm_page_unwire_noq(vm_page_t page)
{
	return ((unwire(page) & ~(VPRC_OBJREF | VPRC_BLOCKED)) == 0);
}

void
vm_page_free(vm_page_t page)
{
	BLOCK_RULE();
	if (page->ref_count != 0)
		panic("page %lx is freed with references",
		    VM_PAGE_TO_PHYS(page));
	COUNT(pages, -1);
	give_back(page);
}

/* Pages of processes: their process has one reference, which is no wiring. */
vm_page_t
host_page_new(void)
{
	vm_page_t page = allocate(1, VPRC_OBJREF);

	page->valid = VM_PAGE_BITS_ALL;
	return (page);
}

void
host_page_drop(vm_page_t page)
{
	u_int before = atomic_fetchadd_int(&page->ref_count, -VPRC_OBJREF);

	page->valid = 0;
	if (before == VPRC_OBJREF)
		give_back(page);
}

void
vm_page_unwire(vm_page_t page, uint8_t queue)
{
	BLOCK_RULE();
	COUNT(wired, -1);
	if (unwire(page) == 0)
		give_back(page);
}

void
vm_page_dirty_KBI(vm_page_t page)
{
	if (page->valid != VM_PAGE_BITS_ALL)
		panic("a page without valid content is made dirty");
	page->dirty = VM_PAGE_BITS_ALL;
}

void
vm_page_valid(vm_page_t page)
{
	page->valid = VM_PAGE_BITS_ALL;
}

/* In front of each block is what it takes to free it. */
struct block {
	size_t size;
	size_t alignment;
	struct malloc_type *type;
	u_long magic;
};
#define	MAGIC		0x6b636f6c62206120ul

void
malloc_init(void *type)
{
	COUNT(handlers, 1);
}

void
malloc_uninit(void *type)
{
	COUNT(handlers, -1);
}

void *
malloc_aligned(size_t size, size_t alignment, struct malloc_type *type,
    int flags)
{
	size_t before = MAX(alignment, sizeof(struct block));
	struct block *block;
	char *memory;

	if ((flags & M_NOWAIT) != 0) {
		BLOCK_RULE();
		if (host_fails())
			return (NULL);
	} else
		SLEEP_RULE();
	memory = bare_alloc(before + size, before);
	if (memory == NULL)
		panic("the test host has too little memory");
	if ((flags & M_ZERO) == 0)
		memset(memory, 0xde, before + size);
	block = (struct block *)(memory + before) - 1;
	*block = (struct block) { size, before, type, MAGIC };
	COUNT(blocks, 1);
	return (block + 1);
}

#undef free
void
free(void *memory, struct malloc_type *type)
{
	struct block *block = (struct block *)memory - 1;
	size_t before, size;

	BLOCK_RULE();
	if (memory == NULL)
		return;
	if (block->magic != MAGIC || block->type != type)
		panic("free(%p): this is no block of that type", memory);
	before = block->alignment;
	size = before + block->size;
	COUNT(blocks, -1);
	memset((char *)memory - before, 0xdf, size);
	bare_free((char *)memory - before, size, before);
}
