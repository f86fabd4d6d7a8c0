/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A host for tests of the FreeBSD module, and not FreeBSD: those functions of
 * its kernel that the module uses, each as small as its contract lets it be.
 * The headers are FreeBSD's, so a structure is where the module looks for it,
 * and a function that is declared otherwise there does not compile here.
 *
 *   memory.c   pages, malloc(9), and how often allocating may succeed
 *   locks.c    sx(9), rwlock(9), sleepqueue(9), critical sections
 *   cpus.c     CPUs and their threads, interrupts, time, tasks
 *   fpu.c      the FPU
 *   user.c     processes and their memory
 *   access.c   the kernel's accesses to that memory
 *   vm.c       mappings of objects
 *   files.c    descriptors and nodes
 *   calls.c    system calls
 *   module.c   the linker's part: dependencies, initialisers, events
 *   text.c     printf(9)
 *
 * It runs on the bare port, which has one thread on each CPU that nobody
 * preempts. Where the kernel would panic, it does.
 */
#ifndef TEST_HOST_H
#define	TEST_HOST_H

#include <sys/param.h>
#include <sys/proc.h>
#include <sys/_cpuset.h>

#include <vm/vm.h>

#define	HOST_CPUS	8

/* What the bare port provides. Memory comes zeroed. */
void	*bare_alloc(size_t size, size_t alignment);
void	 bare_free(void *memory, size_t size, size_t alignment);
void	 bare_print(const char *text, size_t length);
void	 bare_fail(const char *text, size_t length) __dead2;
uint64_t bare_now(void);
uint64_t bare_tsc_hertz(void);
u_int	 bare_cpu_count(void);
/* What GS leads to on a CPU, of at least a page. */
void	*bare_gs(u_int cpu);
/* Sets of CPUs are bits. The calling CPU is no part of kicks. */
void	 bare_kick(uint64_t cpus);
u_int	 bare_kick_vector(void);
void	 bare_call_on(uint64_t cpus, void (*call)(void *), void *context);
void	 bare_sleep(bool (*ready)(void *), void *context);
void	 bare_wake(u_int cpu);

/* What is in use. A test compares it before and after. */
struct counts {
	long pages;		/* of the module */
	long wired;		/* references to pages of processes */
	long blocks;		/* of malloc(9) */
	long locks;
	long fpu_areas;
	long files;
	long objects;
	long spaces;
	long handlers;
	long vectors;
	long nodes;
};
extern struct counts counts;
#define	COUNT(what, change)	atomic_add_long((u_long *)&counts.what, change)

/* Whether what may fail fails here. */
bool	host_fails(void);

/*
 * The rules of imports.txt: "block" where a thread may wait for a mutex,
 * "sleep" where it may sleep.
 */
void	host_rule_spin(const char *function);
void	host_rule_block(const char *function);
void	host_rule_sleep(const char *function);
#define	SPIN_RULE()	host_rule_spin(__func__)
#define	BLOCK_RULE()	host_rule_block(__func__)
#define	SLEEP_RULE()	host_rule_sleep(__func__)
void	host_no_locks(const char *when);

void	host_cpus_start(void);
void	host_fpu_start(void);
void	host_memory_start(u_long frames);
void	host_tasks(void);
/* Waits, busy, for something that does not take long. */
void	host_spin(uint64_t *begin, const char *what);

extern struct thread host_threads[HOST_CPUS];

/* Processes: a memory, and descriptors. */
#define	DESCRIPTORS	64
struct process;
struct process *host_process(struct thread *td);
struct file **host_descriptor(struct process *process, int number);
void	host_enter(struct process *process);
int	host_map(vm_map_t map, vm_offset_t *address, vm_size_t size,
	    vm_prot_t access, vm_object_t object, vm_ooffset_t offset);
vm_page_t host_find(vm_map_t map, vm_offset_t address, vm_prot_t access,
	    bool hold);
int	host_unmap(vm_map_t map, vm_offset_t address);
vm_map_t host_map_of(struct process *process);
struct process *host_process_new(void);
struct process *host_fork(struct process *parent);
void	host_exec(struct process *process);
void	host_exit(struct process *process);
void	host_limit(struct process *process, u_long bytes);

/* The pages of an object that is mapped. */
vm_page_t host_object_page(vm_object_t object, vm_pindex_t index);

/* Pages of processes. */
vm_page_t host_page_new(void);
void	host_page_drop(vm_page_t page);
char	*host_page_bytes(vm_page_t page);

/* The module: the lists that its object has, as the loader found them. */
struct sets {
	void **metadata, **metadata_end;
	void **inits, **inits_end;
	void **uninits, **uninits_end;
};
int	host_load(const struct sets *sets);
int	host_unload(void);
int	host_shut_down(void);

struct cdev;
struct cdev *host_node(const char *name);
int	host_open(struct thread *td, const char *name);
struct file *host_file(struct thread *td, int number);
int	host_close(struct thread *td, struct file **place);

extern long host_successes;
extern long host_attempts;

#endif
