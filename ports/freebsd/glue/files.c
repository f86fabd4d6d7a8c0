// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Descriptors of VMs and vCPUs. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/fcntl.h>
#include <sys/file.h>
#include <sys/filedesc.h>
#include <sys/filio.h>
#include <sys/lock.h>
#include <sys/mutex.h>
#include <sys/proc.h>
#include <sys/rwlock.h>
#include <sys/stat.h>
#include <sys/user.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/vm_extern.h>
#include <vm/vm_object.h>
#include <vm/vm_page.h>
#include <vm/vm_pager.h>

#include "freebsd.h"
#include "glue.h"

int
wb_answer(struct thread *thread, long result)
{
	if (result < 0)
		return (-(int)result);
	thread->td_retval[0] = result;
	return (0);
}

static int
vm_ioctl(struct file *file, u_long command, void *data, struct ucred *ucred,
    struct thread *thread)
{
	/* What fcntl(2) asks of every file. */
	if (command == FIONBIO || command == FIOASYNC)
		return (0);
	return (wb_answer(thread, waterbear_vm_command(file->f_data, command,
	    *(u_long *)data)));
}

static int
vm_close(struct file *file, struct thread *thread)
{
	waterbear_vm_release(file->f_data);
	return (0);
}

static int
vcpu_ioctl(struct file *file, u_long command, void *data, struct ucred *ucred,
    struct thread *thread)
{
	if (command == FIONBIO || command == FIOASYNC)
		return (0);
	return (wb_answer(thread, waterbear_vcpu_ioctl(file->f_data,
	    waterbear_decoded(command), *(u_long *)data)));
}

static int
vcpu_close(struct file *file, struct thread *thread)
{
	waterbear_vcpu_release(file->f_data);
	return (0);
}

/*
 * What a mapping of a vCPU's memory maps. It keeps the pages and the module,
 * and neither the vCPU nor the VM: a VM keeps its owner's memory, so they
 * would keep each other.
 */
#define	PAGES	3

struct mapped {
	void *mapping;
	u_long pfns[PAGES];
};

static int
mapped_begin(void *handle, vm_ooffset_t size, vm_prot_t access,
    vm_ooffset_t offset, struct ucred *ucred, u_short *color)
{
	struct mapped *mapped = handle;

	for (int i = 0; i < PAGES; i++)
		wb_hold_page(mapped->pfns[i]);
	*color = 0;
	return (0);
}

static void
mapped_end(void *handle)
{
	struct mapped *mapped = handle;

	for (int i = 0; i < PAGES; i++)
		wb_unhold_page(mapped->pfns[i]);
	waterbear_mapping_end(mapped->mapping);
	wb_free(mapped);
}

/* The object's pages are stand-ins, as for the memory of devices. */
static int
mapped_fault(vm_object_t object, vm_ooffset_t offset, int access,
    vm_page_t *result)
{
	struct mapped *mapped = object->handle;
	vm_paddr_t at = ptoa(mapped->pfns[OFF_TO_IDX(offset)]);
	vm_page_t page;

	VM_OBJECT_WUNLOCK(object);
	page = vm_page_getfake(at, VM_MEMATTR_DEFAULT);
	VM_OBJECT_WLOCK(object);
	vm_page_replace(page, object, (*result)->pindex, *result);
	vm_page_valid(page);
	*result = page;
	return (VM_PAGER_OK);
}

static const struct cdev_pager_ops mapped_methods = {
	.cdev_pg_ctor = mapped_begin,
	.cdev_pg_dtor = mapped_end,
	.cdev_pg_fault = mapped_fault,
};

static int
vcpu_mmap(struct file *file, vm_map_t map, vm_offset_t *address,
    vm_size_t size, vm_prot_t access, vm_prot_t most, int flags,
    vm_ooffset_t offset, struct thread *thread)
{
	struct mapped *mapped;
	vm_object_t object;
	int error;

	if (offset < 0 || offset > ptoa(PAGES) || size > ptoa(PAGES) - offset)
		return (EINVAL);
	mapped = wb_alloc(sizeof(*mapped), sizeof(void *));
	mapped->mapping = waterbear_mapping_begin();
	if (mapped->mapping == NULL) {
		wb_free(mapped);
		return (ENOMEM);
	}
	for (int i = 0; i < PAGES; i++)
		mapped->pfns[i] = waterbear_vcpu_page(file->f_data, i);
	object = cdev_pager_allocate(mapped, OBJT_DEVICE, &mapped_methods,
	    ptoa(PAGES), VM_PROT_READ | VM_PROT_WRITE, 0, thread->td_ucred);
	if (object == NULL) {
		waterbear_mapping_end(mapped->mapping);
		wb_free(mapped);
		return (ENOMEM);
	}
	error = vm_mmap_object(map, address, size, access,
	    VM_PROT_READ | VM_PROT_WRITE, flags, object, offset, FALSE, thread);
	if (error != 0)
		vm_object_deallocate(object);
	return (error);
}

static int
get_stat(struct file *file, struct stat *stat, struct ucred *ucred)
{
	memset(stat, 0, sizeof(*stat));
	return (0);
}

static int
get_info(struct file *file, struct kinfo_file *info, struct filedesc *table)
{
	info->kf_type = KF_TYPE_DEV;
	return (0);
}

#define	COMMON								\
	.fo_read = invfo_rdwr,						\
	.fo_write = invfo_rdwr,						\
	.fo_truncate = invfo_truncate,					\
	.fo_poll = invfo_poll,						\
	.fo_kqfilter = invfo_kqfilter,					\
	.fo_stat = get_stat,						\
	.fo_chmod = invfo_chmod,					\
	.fo_chown = invfo_chown,					\
	.fo_sendfile = invfo_sendfile,					\
	.fo_fill_kinfo = get_info,					\
	.fo_cmp = file_kcmp_generic,					\
	.fo_flags = DFLAG_PASSABLE

static const struct fileops operations[] = {
	[WB_VM] = {
		COMMON,
		.fo_ioctl = vm_ioctl,
		.fo_close = vm_close,
	},
	[WB_VCPU] = {
		COMMON,
		.fo_ioctl = vcpu_ioctl,
		.fo_close = vcpu_close,
		.fo_mmap = vcpu_mmap,
	},
};

struct file *
wb_file_reserve(enum wb_kind kind, int *descriptor)
{
	struct file *file;
	int error = falloc_caps(curthread, &file, descriptor, O_CLOEXEC, NULL);

	if (error == 0)
		return (file);
	*descriptor = -error;
	return (NULL);
}

void
wb_file_install(struct file *file, int descriptor, enum wb_kind kind,
    void *object)
{
	finit(file, FREAD | FWRITE, DTYPE_DEV, object, &operations[kind]);
	fdrop(file, curthread);
}

/* Another thread may have closed the descriptor already. */
void
wb_file_cancel(struct file *file, int descriptor)
{
	fdclose(curthread, file, descriptor);
	fdrop(file, curthread);
}
