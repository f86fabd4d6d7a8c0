// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* User memory: pages behind addresses, and news of their changes. */
#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "glue.h"

/* NULL for a thread of the kernel's, which owns no memory. */
struct mm_struct *wb_mm_hold(void)
{
	struct mm_struct *mm = current->mm;

	if (mm)
		mmgrab(mm);
	return mm;
}

void wb_mm_drop(struct mm_struct *mm)
{
	mmdrop(mm);
}

bool wb_mm_is_current(struct mm_struct *mm)
{
	return current->mm == mm;
}

/*
 * The entry of the host's page table that maps the address, and how large the
 * piece of memory is that it maps. Interrupts are off: tables are freed only
 * after every CPU has had them on. Each entry is read once, because it may
 * change meanwhile. Then a notification tells, and what was found here is
 * thrown away.
 */
static pte_t leaf_of(struct mm_struct *mm, unsigned long address,
		     unsigned int *shift)
{
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	*shift = PAGE_SHIFT;
	pgd = READ_ONCE(*pgd_offset(mm, address));
	if (pgd_none(pgd))
		return __pte(0);
	p4d = READ_ONCE(*p4d_offset(&pgd, address));
	if (p4d_none(p4d) || !p4d_present(p4d))
		return __pte(0);
	pud = READ_ONCE(*pud_offset(&p4d, address));
	if (pud_none(pud) || !pud_present(pud))
		return __pte(0);
	if (pud_leaf(pud)) {
		*shift = PUD_SHIFT;
		return __pte(pud_val(pud));
	}
	pmd = READ_ONCE(*pmd_offset(&pud, address));
	if (pmd_none(pmd) || !pmd_present(pmd))
		return __pte(0);
	if (pmd_leaf(pmd)) {
		*shift = PMD_SHIFT;
		return __pte(pmd_val(pmd));
	}
	return READ_ONCE(*pte_offset_kernel(&pmd, address));
}

static unsigned int mapping_shift(struct mm_struct *mm, unsigned long address)
{
	unsigned long flags;
	unsigned int shift;

	local_irq_save(flags);
	leaf_of(mm, address, &shift);
	local_irq_restore(flags);
	return shift;
}

/*
 * The kernel counts nobody who uses a page that is none of its own: a device's,
 * or one that it has set aside. What else is found is counted.
 */
static bool counted(unsigned long pfn)
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

long wb_resolve(struct mm_struct *mm, unsigned long address, bool write,
		struct wb_page *found)
{
	struct page *page;
	long got;

	if (current->mm != mm)
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
	if (PageCompound(page))
		found->shift = mapping_shift(mm, address);
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
unsigned long wb_resolve_now(struct mm_struct *mm, unsigned long address)
{
	const pteval_t needed = _PAGE_PRESENT | _PAGE_USER | _PAGE_RW | _PAGE_DIRTY;
	unsigned long flags, pfn, inner, found = 0;
	unsigned int shift;
	pte_t pte;

	if (current->mm != mm || address >= TASK_SIZE_MAX)
		return 0;
	/* Nor is a page given back, which is mapped here, while they are off. */
	local_irq_save(flags);
	pte = leaf_of(mm, address, &shift);
	if ((pte_flags(pte) & needed) != needed || pte_special(pte) ||
	    pte_devmap(pte) || !pte_access_permitted(pte, true))
		goto out;
	inner = (1UL << (shift - PAGE_SHIFT)) - 1;
	pfn = (pte_pfn(pte) & ~inner) | (address >> PAGE_SHIFT & inner);
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

bool wb_read(struct mm_struct *mm, void *to, unsigned long from, size_t size)
{
	const void __user *user = (const void __user *)from;

	if (current->mm != mm)
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
bool wb_read_now(struct mm_struct *mm, const unsigned long *from, u64 *to,
		 size_t count)
{
	bool done = false;
	size_t i;

	if (current->mm != mm)
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

bool wb_write(struct mm_struct *mm, unsigned long to, const void *from,
	      size_t size)
{
	void __user *user = (void __user *)to;

	if (current->mm != mm)
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

/* What was there comes back in *old. */
bool wb_exchange(struct mm_struct *mm, unsigned long at, size_t size, u64 *old,
		 u64 new)
{
	if (current->mm != mm || !user_access_begin((void __user *)at, size))
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

struct wb_notifier {
	struct mmu_notifier notifier;
	const void *vm;
	bool started;
};

static const void *vm_of(struct mmu_notifier *notifier)
{
	return container_of(notifier, struct wb_notifier, notifier)->vm;
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

struct wb_notifier *wb_notifier_new(void)
{
	return kzalloc(sizeof(struct wb_notifier), GFP_KERNEL_ACCOUNT);
}

int wb_notifier_start(struct wb_notifier *notifier, const void *vm)
{
	int error;

	notifier->vm = vm;
	notifier->notifier.ops = &notifier_ops;
	error = mmu_notifier_register(&notifier->notifier, current->mm);
	notifier->started = !error;
	return error;
}

void wb_notifier_free(struct wb_notifier *notifier)
{
	/* Its mm outlives the registration. */
	if (notifier->started)
		mmu_notifier_unregister(&notifier->notifier,
					notifier->notifier.mm);
	kfree(notifier);
}

/* NULL, and an error number in *error, if the descriptor is none of an eventfd. */
struct eventfd_ctx *wb_bell_get(int descriptor, int *error)
{
	struct eventfd_ctx *bell = eventfd_ctx_fdget(descriptor);

	if (!IS_ERR(bell))
		return bell;
	*error = -PTR_ERR(bell);
	return NULL;
}

void wb_bell_ring(struct eventfd_ctx *bell)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(bell);
#else
	eventfd_signal(bell, 1);
#endif
}

void wb_bell_put(struct eventfd_ctx *bell)
{
	eventfd_ctx_put(bell);
}
