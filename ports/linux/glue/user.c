// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* User memory: pages behind addresses, and bytes. */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "glue.h"

/*
 * The entry of the host's page table that maps the address, or 0, and log2 of
 * the bytes that it maps. Interrupts are off: tables are freed only after every
 * CPU has had them on. Each entry is read once, because it may change
 * meanwhile. Then a notification tells, and what was found here is thrown away.
 */
static pteval_t leaf_of(struct mm_struct *mm, unsigned long address,
			unsigned int *shift)
{
	pteval_t *table = (pteval_t *)mm->pgd;
	pteval_t entry;

	*shift = pgtable_l5_enabled() ? P4D_SHIFT + PTE_SHIFT : P4D_SHIFT;
	for (;; *shift -= PTE_SHIFT) {
		entry = READ_ONCE(table[(address >> *shift) % PTRS_PER_PTE]);
		/* What may not be touched now is there nevertheless. */
		if (!(entry & (_PAGE_PRESENT | _PAGE_PROTNONE))) {
			*shift = PAGE_SHIFT;
			return 0;
		}
		if (*shift == PAGE_SHIFT || entry & _PAGE_PSE)
			return entry;
		table = __va(entry & PTE_PFN_MASK);
	}
}

/*
 * The kernel counts nobody who uses a page that is none of its own: a device's,
 * or one that it has set aside. What else is found is counted.
 */
static noinline bool counted(unsigned long pfn)
{
	return pfn_valid(pfn) && !PageReserved(pfn_to_page(pfn));
}

/*
 * What the host's page table has at an address of an area without pages, for
 * which `write` says whether it must be writable. The caller holds mmap_lock.
 */
static int look(struct vm_area_struct *area, unsigned long address, bool write,
		struct wb_page *found)
{
	pgprot_t prot;
	int error;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	struct follow_pfnmap_args args = { .vma = area, .address = address };

	error = follow_pfnmap_start(&args);
	if (error)
		return error;
	found->pfn = args.pfn;
	found->writable = args.writable;
	prot = args.pgprot;
#else
	spinlock_t *lock;
	pte_t *entry;

	error = follow_pte(area->vm_mm, address, &entry, &lock);
	if (error)
		return error;
	found->pfn = pte_pfn(*entry);
	found->writable = pte_write(*entry);
	prot = pte_pgprot(*entry);
#endif
	/* Of the host's types the first is the only one that caches writes. */
	found->uncached = pgprot_val(prot) & (_PAGE_PWT | _PAGE_PCD);
	if (write && !found->writable)
		error = -EFAULT;
	/* While the table is locked, who owns the page cannot let it go. */
	else if (counted(found->pfn) &&
		 !get_page_unless_zero(pfn_to_page(found->pfn)))
		error = -EFAULT;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	follow_pfnmap_end(&args);
#else
	pte_unmap_unlock(entry, lock);
#endif
	return error;
}

/*
 * The page of an area whose pages the kernel gives nobody: a device's memory.
 * Its driver may bring it in only now, and the area may be another one then.
 */
static long resolve_without_page(struct mm_struct *mm, unsigned long address,
				 bool write, struct wb_page *found)
{
	unsigned long rights = write ? VM_WRITE : VM_READ;
	bool again;
	long error;

	mmap_read_lock(mm);
	do {
		struct vm_area_struct *area = vma_lookup(mm, address);

		again = false;
		error = -EFAULT;
		if (!area || !(area->vm_flags & (VM_IO | VM_PFNMAP)) ||
		    !(area->vm_flags & rights))
			break;
		error = look(area, address, write, found);
		if (!error)
			break;
		error = fixup_user_fault(mm, address,
					 write ? FAULT_FLAG_WRITE : 0, &again);
		if (!error && !again)
			error = look(area, address, write, found);
	} while (!error && again);
	mmap_read_unlock(mm);
	return error;
}

int wb_resolve(struct wb_space *space, unsigned long address, bool write,
	       struct wb_page *found)
{
	struct mm_struct *mm = current->mm;
	unsigned long flags;
	struct page *page;
	long got;

	if (!wb_space_is_current(space))
		return -EFAULT;
	found->uncached = false;
	found->shift = PAGE_SHIFT;
	/* The common case, and the only one in which writing is free. */
	found->writable =
		get_user_pages_fast_only(address, 1, FOLL_WRITE, &page) == 1;
	if (!found->writable) {
		got = get_user_pages_unlocked(address, 1, &page,
					      FOLL_HWPOISON | (write ? FOLL_WRITE : 0));
		if (got == -EFAULT)
			return resolve_without_page(mm, address, write, found);
		if (got != 1)
			return got < 0 ? got : -EFAULT;
		found->writable = write;
	}
	found->pfn = page_to_pfn(page);
	/* Only pages of a compound page are mapped by a large entry. */
	if (PageCompound(page)) {
		local_irq_save(flags);
		leaf_of(mm, address, &found->shift);
		local_irq_restore(flags);
	}
	/* As for a page of zeros: it stays, and releasing it does nothing. */
	if (!counted(found->pfn))
		put_page(page);
	return 0;
}

/*
 * The frame behind an address, shifted by eight, and log2 of the bytes that
 * are mapped by one entry there; or 0. Takes only what the kernel would let
 * anybody pin, and what is dirty already: whoever makes the entry clean tells
 * us before, so nobody has to be told that the guest writes.
 */
unsigned long wb_resolve_now(struct wb_space *space, unsigned long address)
{
	const pteval_t needed = _PAGE_PRESENT | _PAGE_USER | _PAGE_RW | _PAGE_DIRTY;
	unsigned long flags, pfn, inner, found = 0;
	unsigned int shift;
	pteval_t entry;
	pte_t pte;

	if (!wb_space_is_current(space) || address >= TASK_SIZE_MAX)
		return 0;
	/* Nor is a page given back, which is mapped here, while they are off. */
	local_irq_save(flags);
	entry = leaf_of(current->mm, address, &shift);
	pte = native_make_pte(entry);
	if ((pte_flags(pte) & needed) != needed || pte_special(pte) ||
	    pte_devmap(pte) || !pte_access_permitted(pte, true))
		goto out;
	inner = (1UL << (shift - PAGE_SHIFT)) - 1;
	pfn = (entry & PTE_PFN_MASK) >> PAGE_SHIFT & ~inner;
	pfn |= address >> PAGE_SHIFT & inner;
	/* Anonymous and shared memory; not what is secret, a device's or a file's. */
	if (pfn_valid(pfn) && folio_test_swapbacked(page_folio(pfn_to_page(pfn))))
		found = pfn << 8 | shift;
out:
	local_irq_restore(flags);
	return found;
}

void wb_release_page(unsigned long pfn, bool dirty)
{
	struct page *page;

	if (!counted(pfn))
		return;
	page = pfn_to_page(pfn);
	if (dirty)
		SetPageDirty(page);
	put_page(page);
}

bool wb_copy_in(void *to, unsigned long from, size_t size)
{
	return !copy_from_user(to, (const void __user *)from, size);
}

bool wb_copy_out(unsigned long to, const void *from, size_t size)
{
	return !copy_to_user((void __user *)to, from, size);
}

/* Of these sizes, and aligned, an access is one access. */
#define ONE_ACCESS(at, size, type) \
	((size) == sizeof(type) && IS_ALIGNED(at, sizeof(type)))

bool wb_read(struct wb_space *space, void *to, unsigned long from, size_t size)
{
	const void __user *user = (const void __user *)from;

	if (!wb_space_is_current(space))
		return false;
	if (ONE_ACCESS(from, size, u64))
		return !get_user(*(u64 *)to, (const u64 __user *)user);
	if (ONE_ACCESS(from, size, u32))
		return !get_user(*(u32 *)to, (const u32 __user *)user);
	if (ONE_ACCESS(from, size, u16))
		return !get_user(*(u16 *)to, (const u16 __user *)user);
	return wb_copy_in(to, from, size);
}

/* Neither sleeps nor brings anything in. */
bool wb_read_now(struct wb_space *space, const unsigned long *from,
		 uint64_t *to, size_t count)
{
	bool done = false;
	size_t i;

	if (!wb_space_is_current(space))
		return false;
	pagefault_disable();
	__uaccess_begin_nospec();
	for (i = 0; i < count; i++) {
		const u64 __user *user = (const u64 __user *)from[i];

		if (unlikely(!access_ok(user, sizeof(*user))))
			goto fault;
		unsafe_get_user(to[i], user, fault);
	}
	done = true;
fault:
	__uaccess_end();
	pagefault_enable();
	return done;
}

bool wb_write(struct wb_space *space, unsigned long to, const void *from,
	      size_t size)
{
	void __user *user = (void __user *)to;

	if (!wb_space_is_current(space))
		return false;
	if (ONE_ACCESS(to, size, u64))
		return !put_user(*(const u64 *)from, (u64 __user *)user);
	if (ONE_ACCESS(to, size, u32))
		return !put_user(*(const u32 *)from, (u32 __user *)user);
	if (ONE_ACCESS(to, size, u16))
		return !put_user(*(const u16 *)from, (u16 __user *)user);
	return wb_copy_out(to, from, size);
}

#define EXCHANGE(type)                                                         \
	do {                                                                   \
		type was = *old;                                               \
		unsafe_try_cmpxchg_user((type __user *)at, &was, (type)new,    \
					fault);                                \
		*old = was;                                                    \
	} while (0)

bool wb_exchange(struct wb_space *space, unsigned long at, size_t size,
		 uint64_t *old, uint64_t new)
{
	if (!wb_space_is_current(space) ||
	    !user_access_begin((void __user *)at, size))
		return false;
	switch (size) {
	case 1:
		EXCHANGE(u8);
		break;
	case 2:
		EXCHANGE(u16);
		break;
	case 4:
		EXCHANGE(u32);
		break;
	default:
		EXCHANGE(u64);
		break;
	}
	user_access_end();
	return true;
fault:
	user_access_end();
	return false;
}
