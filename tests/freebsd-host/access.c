// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The kernel's accesses to the memory of processes. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/proc.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/pmap.h>
#include <vm/vm_map.h>
#include <vm/vm_extern.h>
#include <vm/vm_page.h>

#include "host.h"

int
vm_fault_quick_hold_pages(vm_map_t map, vm_offset_t address, vm_size_t size,
    vm_prot_t access, vm_page_t *pages, int most)
{
	if (size != PAGE_SIZE || most != 1)
		panic("the test host holds one page at a time");
	*pages = host_find(map, address, access, true);
	return (*pages == NULL ? -1 : 1);
}

static char *
user(const volatile void *at, vm_prot_t access)
{
	vm_offset_t address = (vm_offset_t)at;
	vm_page_t page = host_find(&curproc->p_vmspace->vm_map, address, access,
	    false);

	if (page == NULL)
		return (NULL);
	return (host_page_bytes(page) + (address & PAGE_MASK));
}

static int
copy(vm_offset_t address, char *kernel, size_t size, vm_prot_t access)
{
	char *place;
	size_t part;

	for (; size != 0; size -= part, address += part, kernel += part) {
		part = MIN(size, PAGE_SIZE - (address & PAGE_MASK));
		place = user((void *)address, access);
		if (place == NULL)
			return (EFAULT);
		if (access == VM_PROT_READ)
			memcpy(kernel, place, part);
		else
			memcpy(place, kernel, part);
	}
	return (0);
}

int
copyin(const void *from, void *to, size_t size)
{
	return (copy((vm_offset_t)from, to, size, VM_PROT_READ));
}

int
copyout(const void *from, void *to, size_t size)
{
	return (copy((vm_offset_t)to, __DECONST(char *, from), size,
	    VM_PROT_WRITE));
}

int
fueword64(volatile const void *from, int64_t *value)
{
	volatile int64_t *place = (void *)user(from, VM_PROT_READ);

	if (place == NULL)
		return (-1);
	*value = *place;
	return (0);
}

int
fueword32(volatile const void *from, int32_t *value)
{
	volatile int32_t *place = (void *)user(from, VM_PROT_READ);

	if (place == NULL)
		return (-1);
	*value = *place;
	return (0);
}

int
fuword16(volatile const void *from)
{
	volatile uint16_t *place = (void *)user(from, VM_PROT_READ);

	return (place == NULL ? -1 : *place);
}

int
suword64(volatile void *to, int64_t value)
{
	volatile int64_t *place = (void *)user(to, VM_PROT_WRITE);

	if (place == NULL)
		return (-1);
	*place = value;
	return (0);
}

int
suword32(volatile void *to, int32_t value)
{
	volatile int32_t *place = (void *)user(to, VM_PROT_WRITE);

	if (place == NULL)
		return (-1);
	*place = value;
	return (0);
}

int
suword16(volatile void *to, int value)
{
	volatile uint16_t *place = (void *)user(to, VM_PROT_WRITE);

	if (place == NULL)
		return (-1);
	*place = value;
	return (0);
}

/* These may fail without a reason, so they do, now and then. */
static bool
fails_so(void)
{
	static volatile u_int count;

	return (atomic_fetchadd_int(&count, 1) % 8 == 7);
}

int
casueword(volatile u_long *at, u_long old, u_long *seen, u_long new)
{
	volatile u_long *place = (void *)user(at, VM_PROT_WRITE);

	if (place == NULL)
		return (-1);
	*seen = old;
	if (fails_so())
		return (1);
	return (atomic_fcmpset_long(place, seen, new) == 0);
}

int
casueword32(volatile uint32_t *at, uint32_t old, uint32_t *seen, uint32_t new)
{
	volatile u_int *place = (void *)user(at, VM_PROT_WRITE);

	if (place == NULL)
		return (-1);
	*seen = old;
	if (fails_so())
		return (1);
	return (atomic_fcmpset_int(place, seen, new) == 0);
}
