// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Descriptors of VMs and vCPUs. */
#include <linux/anon_inodes.h>
#include <linux/compat.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "glue.h"

static long vm_ioctl(struct file *file, unsigned int command,
		     unsigned long argument)
{
	return waterbear_vm_ioctl(file->private_data, command, argument);
}

/* A file whose making was broken off has no object. */
static int vm_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		waterbear_vm_release(file->private_data);
	return 0;
}

static long vcpu_ioctl(struct file *file, unsigned int command,
		       unsigned long argument)
{
	return waterbear_vcpu_ioctl(file->private_data, command, argument);
}

static int vcpu_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		waterbear_vcpu_release(file->private_data);
	return 0;
}

static ssize_t stats_read(struct file *file, char __user *to, size_t size,
			  loff_t *offset)
{
	ssize_t done = waterbear_stats_read(file->private_data,
					    (unsigned long)to, size, *offset);

	if (done > 0)
		*offset += done;
	return done;
}

static int stats_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		waterbear_stats_release(file->private_data);
	return 0;
}

/* The file outlives its mappings, so its pages do. */
static vm_fault_t vcpu_fault(struct vm_fault *fault)
{
	unsigned long frame = waterbear_vcpu_page(
		fault->vma->vm_file->private_data, fault->pgoff);

	if (!frame)
		return VM_FAULT_SIGBUS;
	fault->page = pfn_to_page(frame);
	get_page(fault->page);
	return 0;
}

static const struct vm_operations_struct vcpu_memory = {
	.fault = vcpu_fault,
};

static int vcpu_mmap(struct file *file, struct vm_area_struct *area)
{
	area->vm_ops = &vcpu_memory;
	return 0;
}

/* The owner keeps the module as long as there is a descriptor. */
static const struct file_operations operations[] = {
	[WB_VM] = {
		.owner = THIS_MODULE,
		.unlocked_ioctl = vm_ioctl,
		.compat_ioctl = compat_ptr_ioctl,
		.release = vm_release,
		.llseek = noop_llseek,
	},
	[WB_VCPU] = {
		.owner = THIS_MODULE,
		.unlocked_ioctl = vcpu_ioctl,
		.compat_ioctl = compat_ptr_ioctl,
		.mmap = vcpu_mmap,
		.release = vcpu_release,
		.llseek = noop_llseek,
	},
	[WB_STATS] = {
		.owner = THIS_MODULE,
		.read = stats_read,
		.release = stats_release,
		.llseek = noop_llseek,
	},
};

struct file *wb_file_reserve(enum wb_kind kind, int *descriptor)
{
	static const char *const names[] = {
		[WB_VM] = "waterbear-vm",
		[WB_VCPU] = "waterbear-vcpu",
		[WB_STATS] = "waterbear-stats",
	};
	struct file *file;
	int free = get_unused_fd_flags(O_CLOEXEC);

	*descriptor = free;
	if (free < 0)
		return NULL;
	file = anon_inode_getfile(names[kind], &operations[kind], NULL,
				  kind == WB_STATS ? O_RDONLY : O_RDWR);
	if (IS_ERR(file)) {
		put_unused_fd(free);
		*descriptor = PTR_ERR(file);
		return NULL;
	}
	if (kind == WB_STATS)
		file->f_mode |= FMODE_PREAD;
	return file;
}

void wb_file_install(struct file *file, int descriptor, enum wb_kind kind,
		     void *object)
{
	file->private_data = object;
	fd_install(descriptor, file);
}

void wb_file_cancel(struct file *file, int descriptor)
{
	put_unused_fd(descriptor);
	fput(file);
}
