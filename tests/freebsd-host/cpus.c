// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* CPUs and their threads, interrupts between them, time, tasks. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kdb.h>
#include <sys/kernel.h>
#include <sys/pcpu.h>
#include <sys/proc.h>
#include <sys/signalvar.h>
#include <sys/smp.h>
#include <sys/syscallsubr.h>
#include <sys/taskqueue.h>
#include <sys/time.h>

#include <machine/cpufunc.h>
#include <machine/pcb.h>

#include "host.h"
/* What the module believes of functions whose headers it cannot include. */
#include "kernel.h"

/* Each CPU has one thread. */
struct thread host_threads[HOST_CPUS];
static struct pcb pcbs[HOST_CPUS];

u_int mp_maxid;
cpuset_t all_cpus;
int pti;
int tsc_is_invariant = 1;
int smp_tsc = 1;
uint64_t tsc_freq;
sbintime_t tick_sbt = SBT_1MS;

void
host_cpus_start(void)
{
	struct pcpu *pcpu;

	_Static_assert(sizeof(*pcpu) <= PAGE_SIZE, "GS leads to a page");
	mp_maxid = bare_cpu_count() - 1;
	tsc_freq = bare_tsc_hertz();
	for (u_int cpu = 0; cpu <= mp_maxid; cpu++) {
		CPU_SET(cpu, &all_cpus);
		pcpu = bare_gs(cpu);
		pcpu->pc_cpuid = cpu;
		pcpu->pc_curthread = &host_threads[cpu];
		pcpu->pc_curpcb = &pcbs[cpu];
		host_threads[cpu].td_pcb = &pcbs[cpu];
	}
}

void
host_spin(uint64_t *begin, const char *what)
{
	const uint64_t patience = 20000000000;

	if (*begin == 0)
		*begin = bare_now();
	for (int i = 0; i < 64; i++)
		cpu_spinwait();
	if (bare_now() - *begin > patience)
		panic("deadlock on %s", what);
}

/* The CPUs of a set, as bits: there are few. */
static uint64_t
bits(const cpuset_t *cpus)
{
	cpuset_t others;

	CPU_ANDNOT(&others, cpus, &all_cpus);
	if (!CPU_EMPTY(&others))
		panic("a CPU is meant that is not there");
	return (cpus->__bits[0]);
}

static int vector_users;

void Xjustreturn(void) { }
void Xjustreturn1_pti(void) { }

int
lapic_ipi_alloc(void (*handler)(void))
{
	BLOCK_RULE();
	if (handler != Xjustreturn)
		panic("this interrupt does something");
	if (host_fails())
		return (-1);
	COUNT(vectors, 1);
	vector_users++;
	return (bare_kick_vector());
}

void
lapic_ipi_free(int vector)
{
	BLOCK_RULE();
	if (vector != (int)bare_kick_vector() || vector_users == 0)
		panic("vector %d is nobody's", vector);
	COUNT(vectors, -1);
	vector_users--;
}

void
ipi_selected(cpuset_t cpus, u_int vector)
{
	if (vector != bare_kick_vector() || vector_users == 0)
		panic("vector %u is nobody's", vector);
	bare_kick(bits(&cpus));
}

void
smp_no_rendezvous_barrier(void *context)
{
}

void
smp_rendezvous_cpus(cpuset_t cpus, void (*setup)(void *),
    void (*action)(void *), void (*teardown)(void *), void *context)
{
	SPIN_RULE();
	if (setup != smp_no_rendezvous_barrier ||
	    teardown != smp_no_rendezvous_barrier)
		panic("the test host has no barriers");
	bare_call_on(bits(&cpus), action, context);
}

void
smp_rendezvous(void (*setup)(void *), void (*action)(void *),
    void (*teardown)(void *), void *context)
{
	SPIN_RULE();
	bare_call_on(bits(&all_cpus), action, context);
}

void (*vmm_suspend_p)(void);
void (*vmm_resume_p)(void);

void
kern_yield(int priority)
{
	SLEEP_RULE();
	/* Seen on a real kernel: one spinning guest had a CPU for itself. */
	if (priority != PRI_USER)
		panic("a yielding guest keeps its priority");
	curthread->td_owepreempt = 0;
	atomic_clear_int((u_int *)&curthread->td_ast, TDAI(TDA_SCHED));
}

int
kern_sigprocmask(struct thread *td, int how, sigset_t *set, sigset_t *old,
    int flags)
{
	BLOCK_RULE();
	if (old != NULL)
		*old = td->td_sigmask;
	if (set != NULL)
		td->td_sigmask = *set;
	return (0);
}

void
kdb_backtrace(void)
{
}

static void
time_of(struct timespec *time)
{
	uint64_t now = bare_now();

	time->tv_sec = now / 1000000000;
	time->tv_nsec = now % 1000000000;
}

void
nanouptime(struct timespec *time)
{
	time_of(time);
}

/* Nobody tells the date. */
void
nanotime(struct timespec *time)
{
	time_of(time);
}

int
eventratecheck(struct timeval *last, int *count, int most)
{
	return (1);
}

int
pause_sbt(const char *message, sbintime_t time, sbintime_t precision,
    int flags)
{
	uint64_t end = bare_now() + 1000000;

	SLEEP_RULE();
	while (bare_now() < end)
		cpu_spinwait();
	return (EWOULDBLOCK);
}

/*
 * One queue, and one thread for it: whoever comes back from a system call. A
 * task that is running may be put into the queue again.
 */
struct taskqueue {
	struct task *volatile task;
	volatile u_int running;
};
static struct taskqueue tasks;
struct taskqueue *taskqueue_thread = &tasks;

static bool
run_task(void)
{
	struct task *task;

	if (atomic_cmpset_acq_int(&tasks.running, 0, 1) == 0)
		return (false);
	task = (struct task *)atomic_swap_ptr((volatile void *)&tasks.task, 0);
	if (task != NULL)
		task->ta_func(task->ta_context, 1);
	atomic_store_rel_int(&tasks.running, 0);
	return (true);
}

void
host_tasks(void)
{
	while (tasks.task != NULL && run_task())
		continue;
}

int
taskqueue_enqueue(struct taskqueue *queue, struct task *task)
{
	BLOCK_RULE();
	if (queue->task != NULL && queue->task != task)
		panic("the test host has room for one task");
	atomic_store_rel_ptr((volatile uintptr_t *)&queue->task,
	    (uintptr_t)task);
	return (0);
}

void
taskqueue_drain(struct taskqueue *queue, struct task *task)
{
	uint64_t begin = 0;

	SLEEP_RULE();
	while (queue->task != NULL || queue->running != 0)
		if (!run_task())
			host_spin(&begin, "a task");
}
