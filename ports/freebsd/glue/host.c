// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The host: memory, locks, CPUs, FPU, the log. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/kdb.h>
#include <sys/lock.h>
#include <sys/malloc.h>
#include <sys/mutex.h>
#include <sys/proc.h>
#include <sys/rwlock.h>
#include <sys/signalvar.h>
#include <sys/sleepqueue.h>
#include <sys/smp.h>
#include <sys/syscallsubr.h>
#include <sys/sx.h>
#include <sys/time.h>

#include <vm/vm.h>
#include <vm/vm_page.h>
#include <vm/vm_pageout.h>

#include <machine/cpufunc.h>
#include <machine/fpu.h>
#include <machine/md_var.h>
#include <machine/pcb.h>
#include <machine/segments.h>
#include <machine/vmparam.h>

#include "glue.h"
#include "kernel.h"

MALLOC_DEFINE(M_WATERBEAR, "waterbear", "Waterbear");

/* How often an allocation is tried anew when memory is short for a moment. */
#define	TRIES	3
/* Of so many bytes the kernel always has some in the end. */
#define	SMALL	(64 * 1024)

void *
wb_alloc_pages(u_long count)
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

/* WITNESS tells locks apart by their names, and copies them. */
#define	NAME	16

struct wb_mutex {
	struct sx lock;
	char name[NAME];
};

struct wb_mutex *
wb_mutex_new(u_int rank)
{
	struct wb_mutex *mutex = wb_alloc(sizeof(*mutex), sizeof(void *));

	snprintf(mutex->name, NAME, "waterbear %u", rank);
	sx_init(&mutex->lock, mutex->name);
	return (mutex);
}

void
wb_mutex_free(struct wb_mutex *mutex)
{
	sx_destroy(&mutex->lock);
	wb_free(mutex);
}

void
wb_mutex_lock(struct wb_mutex *mutex)
{
	sx_xlock(&mutex->lock);
}

bool
wb_mutex_lock_killable(struct wb_mutex *mutex)
{
	return (sx_xlock_sig(&mutex->lock) == 0);
}

void
wb_mutex_unlock(struct wb_mutex *mutex)
{
	sx_xunlock(&mutex->lock);
}

void
wb_mutex_lock_shared(struct wb_mutex *mutex)
{
	sx_slock(&mutex->lock);
}

void
wb_mutex_unlock_shared(struct wb_mutex *mutex)
{
	sx_sunlock(&mutex->lock);
}

/* The kernel marks a lock only for whoever sleeps on it, not for spinners. */
struct wb_rwlock {
	struct rwlock lock;
	volatile u_int waiting;
	char name[NAME];
};

struct wb_rwlock *
wb_rwlock_new(u_int rank)
{
	struct wb_rwlock *rw = wb_alloc(sizeof(*rw), sizeof(void *));

	snprintf(rw->name, NAME, "waterbear %u", rank);
	rw_init(&rw->lock, rw->name);
	return (rw);
}

void
wb_rwlock_free(struct wb_rwlock *rw)
{
	rw_destroy(&rw->lock);
	wb_free(rw);
}

void
wb_read_lock(struct wb_rwlock *rw)
{
	if (rw_try_rlock(&rw->lock))
		return;
	atomic_add_int(&rw->waiting, 1);
	rw_rlock(&rw->lock);
	atomic_subtract_int(&rw->waiting, 1);
}

void
wb_read_unlock(struct wb_rwlock *rw)
{
	rw_runlock(&rw->lock);
}

void
wb_write_lock(struct wb_rwlock *rw)
{
	if (rw_try_wlock(&rw->lock))
		return;
	atomic_add_int(&rw->waiting, 1);
	rw_wlock(&rw->lock);
	atomic_subtract_int(&rw->waiting, 1);
}

void
wb_write_unlock(struct wb_rwlock *rw)
{
	rw_wunlock(&rw->lock);
}

bool
wb_rwlock_contended(struct wb_rwlock *rw)
{
	return (atomic_load_int(&rw->waiting) != 0);
}

static int kick_vector = -1;

int
wb_cpus_start(void)
{
	kick_vector = lapic_ipi_alloc(pti ? Xjustreturn1_pti : Xjustreturn);
	return (kick_vector < 0 ? EBUSY : 0);
}

void
wb_cpus_stop(void)
{
	lapic_ipi_free(kick_vector);
}

u_int
wb_cpu(void)
{
	return (curcpu);
}

u_int
wb_pin(void)
{
	critical_enter();
	return (curcpu);
}

void
wb_unpin(void)
{
	critical_exit();
}

u_long
wb_irq_save(void)
{
	return (intr_disable());
}

void
wb_irq_restore(u_long flags)
{
	intr_restore(flags);
}

/* Those of the set that there are: the kernel minds others. */
static cpuset_t
set_of(const u_long *bits)
{
	cpuset_t cpus;

	_Static_assert(sizeof(cpus) == WB_MAX_CPUS / 8, "sets have one size");
	memcpy(&cpus, bits, sizeof(cpus));
	CPU_AND(&cpus, &cpus, &all_cpus);
	return (cpus);
}

void
wb_kick(const u_long *bits)
{
	ipi_selected(set_of(bits), kick_vector);
}

static void
taken(void *context)
{
}

void
wb_call_on(const u_long *bits, void (*call)(void *), void *context)
{
	cpuset_t cpus = set_of(bits);

	if (!CPU_EMPTY(&cpus))
		smp_rendezvous_cpus(cpus, smp_no_rendezvous_barrier, call,
		    smp_no_rendezvous_barrier, context);
}

void
wb_kick_and_wait(const u_long *bits)
{
	wb_call_on(bits, taken, NULL);
}

u_int
wb_cpu_count(void)
{
	return (mp_maxid + 1);
}

bool
wb_is_online(u_int cpu)
{
	return (cpu <= mp_maxid && CPU_ISSET(cpu, &all_cpus));
}

static uint64_t
nanoseconds(const struct timespec *time)
{
	return ((uint64_t)time->tv_sec * 1000000000 + time->tv_nsec);
}

uint64_t
wb_boot_time(void)
{
	struct timespec time;

	nanouptime(&time);
	return (nanoseconds(&time));
}

uint64_t
wb_wall_time(void)
{
	struct timespec time;

	nanotime(&time);
	return (nanoseconds(&time));
}

bool
wb_tsc_is_stable(void)
{
	return (tsc_is_invariant != 0 && smp_tsc != 0);
}

/* The descriptor of a task register that is loaded says so. */
void
wb_task_register_was_cut(void)
{
	PCPU_GET(tss)->sd_type = SDT_SYSTSS;
	ltr(GSEL(GPROC0_SEL, SEL_KPL));
}

bool
wb_should_yield(void)
{
	struct thread *td = curthread;

	return (td->td_ast != 0 || td->td_owepreempt != 0);
}

/* The switch takes up what the scheduler asked for. */
void
wb_yield(void)
{
	kern_yield(PRI_UNCHANGED);
}

/*
 * Signals, and everything else that the kernel does with a thread on its way
 * to user space: suspending it, ending it with its process, accounting.
 */
bool
wb_signal_pending(void)
{
	return ((curthread->td_ast & ~TDAI(TDA_SCHED)) != 0);
}

void
wb_signals_mask(uint64_t mask, struct wb_signals *before)
{
	sigset_t signals, old;

	_Static_assert(sizeof(old) == sizeof(*before), "as many signals");
	kern_sigprocmask(curthread, SIG_SETMASK, NULL, &signals, 0);
	signals.__bits[0] = (uint32_t)mask;
	signals.__bits[1] = mask >> 32;
	kern_sigprocmask(curthread, SIG_SETMASK, &signals, &old, 0);
	memcpy(before, &old, sizeof(old));
}

void
wb_signals_unmask(const struct wb_signals *before)
{
	sigset_t signals;

	memcpy(&signals, before, sizeof(signals));
	kern_sigprocmask(curthread, SIG_SETMASK, &signals, NULL, 0);
}

/*
 * A waker may be in a critical section, where nothing that blocks can be
 * locked; the kernel's own sleep queues have spin locks.
 */
struct wb_queue {
	volatile u_int sleepers;
};

struct wb_queue *
wb_queue_new(void)
{
	return (wb_alloc(sizeof(struct wb_queue), sizeof(void *)));
}

bool
wb_queue_wait(struct wb_queue *queue, bool interruptible,
    bool (*ready)(void *), void *context)
{
	const int flags = SLEEPQ_SLEEP |
	    (interruptible ? SLEEPQ_INTERRUPTIBLE : 0);
	bool is_ready;
	int error = 0;

	/* Fully ordered, like the fence in wb_queue_wake. */
	atomic_add_acq_int(&queue->sleepers, 1);
	for (;;) {
		sleepq_lock(queue);
		is_ready = ready(context);
		if (is_ready || error != 0) {
			sleepq_release(queue);
			break;
		}
		sleepq_add(queue, NULL, "wbvcpu", flags, 0);
		if (interruptible)
			error = sleepq_wait_sig(queue, 0);
		else
			sleepq_wait(queue, 0);
	}
	atomic_subtract_rel_int(&queue->sleepers, 1);
	return (is_ready);
}

bool
wb_queue_wake(struct wb_queue *queue)
{
	atomic_thread_fence_seq_cst();
	if (atomic_load_int(&queue->sleepers) == 0)
		return (false);
	sleepq_lock(queue);
	sleepq_broadcast(queue, SLEEPQ_SLEEP, 0, 0);
	sleepq_release(queue);
	return (true);
}

/*
 * While it is loaded the guest's state is to the kernel what the thread has
 * in the FPU: it is saved when another thread runs and back in the CPU when
 * this one does, as for kernel code between fpu_kern_enter(9) and
 * fpu_kern_leave(9).
 */
struct wb_fpu {
	struct savefpu *area;
	struct savefpu *owners;
};

struct wb_fpu *
wb_fpu_new(void)
{
	struct wb_fpu *fpu = wb_alloc(sizeof(*fpu), sizeof(void *));

	fpu->area = fpu_save_area_alloc();
	fpu_save_area_reset(fpu->area);
	return (fpu);
}

void
wb_fpu_free(struct wb_fpu *fpu)
{
	fpu_save_area_free(fpu->area);
	wb_free(fpu);
}

void
wb_fpu_load(struct wb_fpu *fpu)
{
	struct pcb *pcb = curpcb;

	critical_enter();
	fpuexit(curthread);
	fpu->owners = pcb->pcb_save;
	pcb->pcb_save = fpu->area;
	/* The last one: a guest's run changes what a fast return relies on. */
	set_pcb_flags(pcb, PCB_KERNFPU | PCB_FPUINITDONE | PCB_FULL_IRET);
	critical_exit();
}

void
wb_fpu_unload(struct wb_fpu *fpu)
{
	struct pcb *pcb = curpcb;

	critical_enter();
	fpuexit(curthread);
	pcb->pcb_save = fpu->owners;
	clear_pcb_flags(pcb, PCB_KERNFPU);
	if ((pcb->pcb_flags & PCB_USERFPUINITDONE) == 0)
		clear_pcb_flags(pcb, PCB_FPUINITDONE);
	critical_exit();
}

void
wb_fpu_refresh(void)
{
	if (PCPU_GET(fpcurthread) != curthread)
		fpudna();
}

/* Where FXSAVE has MXCSR, x87 and SSE registers, and XSAVE its header. */
#define	MXCSR	24
#define	X87	32
#define	SSE	160
#define	SSE_END	416
#define	HEADER	512
#define	HEADER_END 576

bool
wb_fpu_read(struct wb_fpu *fpu, void *into, size_t size)
{
	const uint16_t control = __INITIAL_FPUCW__;
	char *to = into;
	uint64_t parts = XFEATURE_ENABLED_X87 | XFEATURE_ENABLED_SSE;

	memset(to, 0, size);
	if (size < HEADER_END || size < cpu_max_ext_state_size)
		return (false);
	memcpy(to, fpu->area, cpu_max_ext_state_size);
	if (use_xsave)
		memcpy(&parts, to + HEADER, sizeof(parts));
	else
		memcpy(to + HEADER, &parts, sizeof(parts));
	/* The CPU need not write what is as after a reset. */
	if ((parts & XFEATURE_ENABLED_X87) == 0) {
		memset(to, 0, MXCSR);
		memcpy(to, &control, sizeof(control));
		memset(to + X87, 0, SSE - X87);
	}
	if ((parts & XFEATURE_ENABLED_SSE) == 0)
		memset(to + SSE, 0, SSE_END - SSE);
	return (true);
}

bool
wb_fpu_write(struct wb_fpu *fpu, const void *from, size_t size)
{
	const char *bytes = from;
	uint64_t parts, rest;
	uint32_t mxcsr;

	if (size < HEADER_END || size < cpu_max_ext_state_size)
		return (false);
	memcpy(&mxcsr, bytes + MXCSR, sizeof(mxcsr));
	memcpy(&parts, bytes + HEADER, sizeof(parts));
	if ((mxcsr & ~cpu_mxcsr_mask) != 0 || (parts & ~(use_xsave ?
	    xsave_mask : XFEATURE_ENABLED_X87 | XFEATURE_ENABLED_SSE)) != 0)
		return (false);
	for (size_t at = HEADER + sizeof(parts); at < HEADER_END;
	    at += sizeof(rest)) {
		memcpy(&rest, bytes + at, sizeof(rest));
		if (rest != 0)
			return (false);
	}
	memcpy(fpu->area, bytes, cpu_max_ext_state_size);
	return (true);
}

void
wb_info(const char *text, int length)
{
	static struct timeval last;
	static int count;

	if (ppsratecheck(&last, &count, 20))
		printf("waterbear: %.*s\n", length, text);
}

void
wb_bug(const char *text, int length)
{
	static volatile u_int told;

	if (atomic_fetchadd_int(&told, 1) == 0) {
		printf("waterbear: bug: %.*s\n", length, text);
		kdb_backtrace();
	}
}

void
wb_panic(const char *text, int length)
{
	panic("waterbear: %.*s", length, text);
}
