// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Descriptors of VMs and vCPUs. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/fcntl.h>
#include <sys/file.h>
#include <sys/filedesc.h>
#include <sys/filio.h>
#include <sys/proc.h>
#include <sys/stat.h>
#include <sys/user.h>

#include <vm/vm.h>
#include <vm/vm_param.h>
#include <vm/vm_extern.h>
#include <vm/vm_object.h>

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
	return (wb_answer(thread, waterbear_vm_ioctl(file->f_data, command,
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
	return (wb_answer(thread, waterbear_vcpu_ioctl(file->f_data, command,
	    *(u_long *)data)));
}

static int
vcpu_close(struct file *file, struct thread *thread)
{
	waterbear_vcpu_release(file->f_data);
	return (0);
}

static int
vcpu_mmap(struct file *file, vm_map_t map, vm_offset_t *address,
    vm_size_t size, vm_prot_t access, vm_prot_t most, int flags,
    vm_ooffset_t offset, struct thread *thread)
{
	vm_object_t object;
	u_long end;
	int error;

	object = waterbear_vcpu_object(file->f_data, &end);
	if (offset < 0 || offset > end || size > end - offset)
		return (EINVAL);
	vm_object_reference(object);
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

/* NULL, and an error number, if there is none to be had. */
struct file *
wb_file_reserve(int *descriptor, int *error)
{
	struct file *file;

	*error = falloc_caps(curthread, &file, descriptor, O_CLOEXEC, NULL);
	return (*error == 0 ? file : NULL);
}

void
wb_file_install(struct file *file, enum wb_kind kind, void *object)
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
