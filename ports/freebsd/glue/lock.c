// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Locks. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/lock.h>
#include <sys/rwlock.h>
#include <sys/sx.h>

#include "glue.h"

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

/* Slot read sections: a lock whose readers may sleep. */
struct wb_srcu {
	struct sx lock;
};

struct wb_srcu *
wb_srcu_new(void)
{
	struct wb_srcu *domain = wb_alloc(sizeof(*domain), sizeof(void *));

	sx_init(&domain->lock, "waterbear slots");
	return (domain);
}

void
wb_srcu_free(struct wb_srcu *domain)
{
	sx_destroy(&domain->lock);
	wb_free(domain);
}

int
wb_srcu_lock(struct wb_srcu *domain)
{
	sx_slock(&domain->lock);
	return (0);
}

void
wb_srcu_unlock(struct wb_srcu *domain, int token)
{
	sx_sunlock(&domain->lock);
}

void
wb_srcu_synchronize(struct wb_srcu *domain)
{
	sx_xlock(&domain->lock);
	sx_xunlock(&domain->lock);
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
