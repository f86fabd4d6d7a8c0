// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * System calls, and what else a test asks for. A result below 0 is an error
 * number, negated.
 */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/file.h>
#include <sys/ioccom.h>
#include <sys/proc.h>
#include <sys/smp.h>

#include <vm/vm.h>
#include <vm/vm_param.h>

#include <machine/md_var.h>

#include "host.h"

/* The calling thread goes back to user space, and takes its signals. */
static long
returned(int error)
{
	struct thread *td = curthread;

	host_no_locks("a system call comes");
	atomic_store_int((u_int *)&td->td_ast, 0);
	host_tasks();
	return (error != 0 ? -(long)error : td->td_retval[0]);
}

static void
start(u_long frames)
{
	host_cpus_start();
	host_memory_start(frames);
	host_fpu_start();
}

static long
call_open(const char *name)
{
	curthread->td_retval[0] = host_open(curthread, name);
	return (returned(0));
}

static long
call_close(int number)
{
	int error = EBADF;

	curthread->td_retval[0] = 0;
	if (number >= 0 && number < DESCRIPTORS)
		error = host_close(curthread,
		    host_descriptor(host_process(curthread), number));
	return (returned(error));
}

/* The most bytes that the kernel copies for a command. */
#define	MOST	256

static int
command(struct file *file, u_long command, u_long argument)
{
	u_long size = IOCPARM_LEN(command);
	char buffer[MOST];
	void *data = &argument;
	int error;

	if ((command & (IOC_VOID | IOC_INOUT)) == 0 ||
	    ((command & IOC_INOUT) != 0 && size == 0) ||
	    ((command & IOC_VOID) != 0 && size != 0 && size != sizeof(int)))
		return (ENOTTY);
	if ((command & IOC_VOID) == 0) {
		if (size > MOST)
			panic("the test host copies no more");
		memset(buffer, 0, MOST);
		data = buffer;
		if ((command & IOC_IN) != 0) {
			error = copyin((void *)argument, buffer, size);
			if (error != 0)
				return (error);
		}
	}
	error = file->f_ops->fo_ioctl(file, command, data, NULL, curthread);
	if (error == ENOIOCTL)
		error = ENOTTY;
	if (error == 0 && (command & IOC_OUT) != 0)
		error = copyout(buffer, (void *)argument, size);
	return (error);
}

static long
call_ioctl(int number, u_long what, u_long argument)
{
	struct file *file = host_file(curthread, number);
	int error = EBADF;

	curthread->td_retval[0] = 0;
	if (file != NULL) {
		/* A descriptor that is promised has nothing behind it yet. */
		if (file->f_ops != NULL)
			error = command(file, (u_int)what, argument);
		fdrop(file, curthread);
	}
	return (returned(error));
}

/* Of a descriptor, or zeros if there is none. */
static long
call_mmap(int number, u_long size, int access, u_long offset)
{
	vm_map_t map = host_map_of(host_process(curthread));
	vm_offset_t address = 0;
	struct file *file;
	int error = EBADF;

	if (number < 0)
		error = host_map(map, &address, size, access, NULL, 0);
	else if ((file = host_file(curthread, number)) != NULL) {
		error = ENODEV;
		if (file->f_ops != NULL && file->f_ops->fo_mmap != NULL)
			error = file->f_ops->fo_mmap(file, map, &address, size,
			    access, VM_PROT_READ | VM_PROT_WRITE, 0, offset,
			    curthread);
		fdrop(file, curthread);
	}
	curthread->td_retval[0] = address;
	return (returned(error));
}

static long
call_munmap(u_long address)
{
	curthread->td_retval[0] = 0;
	return (returned(host_unmap(host_map_of(host_process(curthread)),
	    address)));
}

/* The process reads and writes its memory. */
static long
peek(u_long from, void *to, u_long size)
{
	return (-copyin((void *)from, to, size));
}

static long
poke(u_long to, const void *from, u_long size)
{
	return (-copyout(from, (void *)to, size));
}

/* News for the thread of a CPU: a signal, or that it should yield. */
static void
alert(u_int cpu, bool is_signal)
{
	struct thread *td = &host_threads[cpu];

	atomic_set_int((u_int *)&td->td_ast,
	    TDAI(is_signal ? TDA_SIG : TDA_SCHED));
	bare_wake(cpu);
}

static void
host_nothing(void)
{
}

static void
fail_after(long successes)
{
	host_successes = successes;
	host_attempts = 0;
}

static long
attempts(void)
{
	return (host_attempts);
}

/* Another hypervisor is there, or no longer. Says whether one was. */
static bool
rival(bool there)
{
	bool was = vmm_suspend_p != NULL;

	vmm_suspend_p = there ? host_nothing : NULL;
	return (was);
}

/* The machine goes to sleep, or wakes. */
static void
each_cpu(void *context)
{
	void (**news)(void) = context;

	if (*news != NULL)
		(*news)();
}

static void
suspend(bool sleeps)
{
	smp_rendezvous(NULL, each_cpu, NULL,
	    sleeps ? &vmm_suspend_p : &vmm_resume_p);
}

/* In the order in which the bare port has them. */
const struct {
	void (*start)(u_long);
	int (*load)(const struct sets *);
	int (*unload)(void);
	int (*shut_down)(void);
	struct process *(*process)(void);
	struct process *(*fork)(struct process *);
	void (*exec)(struct process *);
	void (*exit)(struct process *);
	void (*enter)(struct process *);
	void (*limit)(struct process *, u_long);
	long (*open)(const char *);
	long (*close)(int);
	long (*ioctl)(int, u_long, u_long);
	long (*mmap)(int, u_long, int, u_long);
	long (*munmap)(u_long);
	long (*peek)(u_long, void *, u_long);
	long (*poke)(u_long, const void *, u_long);
	void (*alert)(u_int, bool);
	void (*fail_after)(long);
	long (*attempts)(void);
	bool (*rival)(bool);
	void (*suspend)(bool);
	const struct counts *counts;
} calls = {
	start, host_load, host_unload, host_shut_down, host_process_new,
	host_fork, host_exec, host_exit, host_enter, host_limit, call_open,
	call_close, call_ioctl, call_mmap, call_munmap, peek, poke, alert,
	fail_after, attempts, rival, suspend, &counts,
};
