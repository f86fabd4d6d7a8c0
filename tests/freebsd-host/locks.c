// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Locks, sleep queues and critical sections. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/lock.h>
#include <sys/proc.h>
#include <sys/rwlock.h>
#include <sys/sleepqueue.h>
#include <sys/sx.h>

#include <machine/cpufunc.h>

#include "host.h"

/* What a thread holds; by its number, which is its CPU's. */
static struct held {
	u_int readers;
	u_int writers;
	u_int sleeping;
} held[HOST_CPUS];

static void
rule(const char *function, const char *what)
{
	panic("%s is called %s", function, what);
}

void
host_rule_spin(const char *function)
{
	if ((read_rflags() & PSL_I) == 0)
		rule(function, "with interrupts off");
}

void
host_rule_block(const char *function)
{
	host_rule_spin(function);
	if (curthread->td_critnest != 0)
		rule(function, "in a critical section");
}

void
host_rule_sleep(const char *function)
{
	const struct held *mine = &held[curcpu];

	host_rule_block(function);
	if (mine->readers != 0 || mine->writers != 0)
		rule(function, "with a rwlock held");
}

/* At the end of a system call. */
void
host_no_locks(const char *when)
{
	const struct held *mine = &held[curcpu];

	if (mine->readers != 0 || mine->writers != 0 || mine->sleeping != 0)
		rule(when, "to an end with a lock held");
	if (curthread->td_critnest != 0 || curthread->td_pinned != 0)
		rule(when, "to an end in a critical section");
}

void
critical_enter_KBI(void)
{
	curthread->td_critnest++;
}

void
critical_exit_KBI(void)
{
	if (curthread->td_critnest == 0)
		panic("critical_exit without critical_enter");
	if (--curthread->td_critnest == 0)
		curthread->td_owepreempt = 0;
}

/*
 * A lock's word: 0, its owner, or twice the number of its readers plus one. In
 * lo_data is how many wait to write; new readers let them go first.
 */
#define	READER(word)	(((word) & 1) != 0)

static bool
try_read(volatile uintptr_t *word, u_int waiting, u_int own)
{
	uintptr_t old = *word;

	if ((waiting != 0 && own == 0) || (old != 0 && !READER(old)))
		return (false);
	return (atomic_cmpset_acq_long(word, old, old == 0 ? 3 : old + 2));
}

static bool
try_write(volatile uintptr_t *word)
{
	return (atomic_cmpset_acq_long(word, 0, (uintptr_t)curthread));
}

static void
end_read(volatile uintptr_t *word)
{
	uintptr_t old;

	do {
		old = *word;
		if (!READER(old))
			panic("a lock is given back that nobody reads under");
	} while (!atomic_cmpset_rel_long(word, old, old == 3 ? 0 : old - 2));
}

static void
end_write(volatile uintptr_t *word)
{
	if (*word != (uintptr_t)curthread)
		panic("a lock is given back that is somebody else's");
	atomic_store_rel_long(word, 0);
}

static struct rwlock *
rwlock_of(volatile uintptr_t *word)
{
	return (__containerof(word, struct rwlock, rw_lock));
}

void
_rw_init_flags(volatile uintptr_t *word, const char *name, int flags)
{
	*rwlock_of(word) = (struct rwlock) { .lock_object.lo_name = name };
	COUNT(locks, 1);
}

void
_rw_destroy(volatile uintptr_t *word)
{
	if (*word != 0)
		panic("a rwlock is destroyed that is held");
	*word = ~0ul;
	COUNT(locks, -1);
}

int
__rw_try_rlock(volatile uintptr_t *word, const char *file, int line)
{
	struct held *mine = &held[curcpu];
	bool got = try_read(word, rwlock_of(word)->lock_object.lo_data,
	    mine->readers);

	mine->readers += got;
	return (got);
}

void
__rw_rlock(volatile uintptr_t *word, const char *file, int line)
{
	uint64_t begin = 0;

	BLOCK_RULE();
	while (!__rw_try_rlock(word, file, line))
		host_spin(&begin, rwlock_of(word)->lock_object.lo_name);
}

void
_rw_runlock_cookie(volatile uintptr_t *word, const char *file, int line)
{
	held[curcpu].readers--;
	end_read(word);
}

int
__rw_try_wlock(volatile uintptr_t *word, const char *file, int line)
{
	bool got = try_write(word);

	held[curcpu].writers += got;
	return (got);
}

void
_rw_wlock_cookie(volatile uintptr_t *word, const char *file, int line)
{
	struct lock_object *lock = &rwlock_of(word)->lock_object;
	uint64_t begin = 0;

	BLOCK_RULE();
	atomic_add_int(&lock->lo_data, 1);
	while (!__rw_try_wlock(word, file, line))
		host_spin(&begin, lock->lo_name);
	atomic_subtract_int(&lock->lo_data, 1);
}

void
_rw_wunlock_cookie(volatile uintptr_t *word, const char *file, int line)
{
	held[curcpu].writers--;
	end_write(word);
}

void
sx_init_flags(struct sx *lock, const char *name, int flags)
{
	*lock = (struct sx) { .lock_object.lo_name = name };
	COUNT(locks, 1);
}

void
sx_sysinit(const void *argument)
{
	const struct sx_args *args = argument;

	sx_init_flags(args->sa_sx, args->sa_desc, args->sa_flags);
}

void
sx_destroy(struct sx *lock)
{
	if (lock->sx_lock != 0)
		panic("an sx lock is destroyed that is held");
	lock->sx_lock = ~0ul;
	COUNT(locks, -1);
}

int
_sx_slock(struct sx *lock, int how, const char *file, int line)
{
	uint64_t begin = 0;

	SLEEP_RULE();
	while (!try_read(&lock->sx_lock, lock->lock_object.lo_data,
	    held[curcpu].sleeping))
		host_spin(&begin, lock->lock_object.lo_name);
	held[curcpu].sleeping++;
	return (0);
}

void
_sx_sunlock(struct sx *lock, const char *file, int line)
{
	held[curcpu].sleeping--;
	end_read(&lock->sx_lock);
}

int
_sx_xlock(struct sx *lock, int how, const char *file, int line)
{
	uint64_t begin = 0;
	int error = 0;

	SLEEP_RULE();
	atomic_add_int(&lock->lock_object.lo_data, 1);
	while (!try_write(&lock->sx_lock)) {
		if ((how & SX_INTERRUPTIBLE) != 0 &&
		    (curthread->td_ast & TDAI(TDA_SIG)) != 0) {
			error = EINTR;
			break;
		}
		host_spin(&begin, lock->lock_object.lo_name);
	}
	atomic_subtract_int(&lock->lock_object.lo_data, 1);
	held[curcpu].sleeping += error == 0;
	return (error);
}

void
_sx_xunlock(struct sx *lock, const char *file, int line)
{
	held[curcpu].sleeping--;
	end_write(&lock->sx_lock);
}

/* One lock for all sleep queues; td_wchan says who is on which. */
static volatile u_int queues;
static register_t flags_before;

void
sleepq_lock(const void *queue)
{
	register_t flags = intr_disable();

	while (atomic_cmpset_acq_int(&queues, 0, 1) == 0)
		cpu_spinwait();
	flags_before = flags;
}

void
sleepq_release(const void *queue)
{
	register_t flags = flags_before;

	atomic_store_rel_int(&queues, 0);
	intr_restore(flags);
}

void
sleepq_add(const void *queue, struct lock_object *lock, const char *message,
    int flags, int number)
{
	curthread->td_wchan = queue;
}

static bool
is_awake(void *context)
{
	return (atomic_load_ptr(&curthread->td_wchan) == NULL);
}

static bool
is_awake_or_signalled(void *context)
{
	return (is_awake(context) || (curthread->td_ast & TDAI(TDA_SIG)) != 0);
}

void
sleepq_wait(const void *queue, int priority)
{
	sleepq_release(queue);
	SLEEP_RULE();
	bare_sleep(is_awake, NULL);
}

int
sleepq_wait_sig(const void *queue, int priority)
{
	bool awake;

	sleepq_release(queue);
	SLEEP_RULE();
	bare_sleep(is_awake_or_signalled, NULL);
	sleepq_lock(queue);
	awake = curthread->td_wchan == NULL;
	curthread->td_wchan = NULL;
	sleepq_release(queue);
	return (awake ? 0 : EINTR);
}

void
sleepq_broadcast(const void *queue, int flags, int priority, int number)
{
	for (u_int cpu = 0; cpu < bare_cpu_count(); cpu++)
		if (host_threads[cpu].td_wchan == queue) {
			atomic_store_ptr(&host_threads[cpu].td_wchan, NULL);
			bare_wake(cpu);
		}
}
