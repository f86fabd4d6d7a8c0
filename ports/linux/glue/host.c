// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The host: memory, read sections, locks, the log. */
#include <linux/bug.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/rwlock.h>
#include <linux/slab.h>
#include <linux/srcu.h>

#include "glue.h"

const struct wb_numbers wb_numbers = {
	.again = EAGAIN,
	.not_supported = EOPNOTSUPP,
	.poisoned = EHWPOISON,
};

void *wb_alloc_pages(unsigned long count)
{
	const gfp_t how = GFP_KERNEL_ACCOUNT | __GFP_ZERO;

	return count == 1 ? (void *)__get_free_page(how) :
			    alloc_pages_exact(count * PAGE_SIZE, how);
}

void wb_free_pages(void *pages, unsigned long count)
{
	free_pages_exact(pages, count * PAGE_SIZE);
}

static void free_page_now(struct rcu_head *head)
{
	__free_page(container_of(head, struct page, rcu_head));
}

void wb_free_page_deferred(void *page)
{
	call_rcu(&virt_to_page(page)->rcu_head, free_page_now);
}

/*
 * The kernel aligns sizes that are powers of two to themselves, all others to
 * eight bytes; and it warns of sizes that no int holds.
 */
void *wb_alloc(size_t size, size_t alignment)
{
	if (alignment > 8)
		size = roundup_pow_of_two(max(size, alignment));
	return size <= INT_MAX ? kvzalloc(size, GFP_KERNEL_ACCOUNT) : NULL;
}

void wb_free(void *memory)
{
	kvfree(memory);
}

void wb_rcu_lock(void)
{
	rcu_read_lock();
}

void wb_rcu_unlock(void)
{
	rcu_read_unlock();
}

void wb_rcu_barrier(void)
{
	rcu_barrier();
}

struct wb_srcu {
	struct srcu_struct domain;
};

struct wb_srcu *wb_srcu_new(void)
{
	struct wb_srcu *srcu = wb_alloc(sizeof(*srcu), 1);

	if (srcu && init_srcu_struct(&srcu->domain)) {
		wb_free(srcu);
		srcu = NULL;
	}
	return srcu;
}

void wb_srcu_free(struct wb_srcu *srcu)
{
	cleanup_srcu_struct(&srcu->domain);
	wb_free(srcu);
}

int wb_srcu_lock(struct wb_srcu *srcu)
{
	return srcu_read_lock(&srcu->domain);
}

void wb_srcu_unlock(struct wb_srcu *srcu, int token)
{
	srcu_read_unlock(&srcu->domain, token);
}

void wb_srcu_synchronize(struct wb_srcu *srcu)
{
	synchronize_srcu_expedited(&srcu->domain);
}

/*
 * One lockdep class per rank: the core's classes have ranks of their own. The
 * classes' names are not C's, so all of ours have one, and the rank tells them
 * apart.
 */
#define RANKS 128
#define NAME "waterbear"
static struct lock_class_key lock_keys[RANKS];

static struct lock_class_key *lock_key(unsigned int rank)
{
	return &lock_keys[min_t(unsigned int, rank, RANKS - 1)];
}

struct wb_mutex {
	struct mutex mutex;
};

struct wb_mutex *wb_mutex_new(unsigned int rank)
{
	struct wb_mutex *lock = wb_alloc(sizeof(*lock), 1);

	if (lock)
		__mutex_init(&lock->mutex, NAME, lock_key(rank));
	return lock;
}

void wb_mutex_free(struct wb_mutex *lock)
{
	wb_free(lock);
}

void wb_mutex_lock(struct wb_mutex *lock)
{
	mutex_lock(&lock->mutex);
}

bool wb_mutex_lock_killable(struct wb_mutex *lock)
{
	return !mutex_lock_killable(&lock->mutex);
}

void wb_mutex_unlock(struct wb_mutex *lock)
{
	mutex_unlock(&lock->mutex);
}

struct wb_rwlock {
	rwlock_t rwlock;
};

struct wb_rwlock *wb_rwlock_new(unsigned int rank)
{
	struct wb_rwlock *lock = wb_alloc(sizeof(*lock), 1);

	if (lock) {
		rwlock_init(&lock->rwlock);
		lockdep_set_class_and_name(&lock->rwlock, lock_key(rank), NAME);
	}
	return lock;
}

void wb_rwlock_free(struct wb_rwlock *lock)
{
	wb_free(lock);
}

void wb_read_lock(struct wb_rwlock *lock)
{
	read_lock(&lock->rwlock);
}

bool wb_read_trylock(struct wb_rwlock *lock)
{
	return read_trylock(&lock->rwlock);
}

void wb_read_unlock(struct wb_rwlock *lock)
{
	read_unlock(&lock->rwlock);
}

void wb_write_lock(struct wb_rwlock *lock)
{
	write_lock(&lock->rwlock);
}

void wb_write_unlock(struct wb_rwlock *lock)
{
	write_unlock(&lock->rwlock);
}

bool wb_rwlock_contended(struct wb_rwlock *lock)
{
	return rwlock_needbreak(&lock->rwlock);
}

void wb_info(const char *text, int length)
{
	pr_info_ratelimited("waterbear: %.*s\n", length, text);
}

void wb_bug(const char *text, int length)
{
	WARN_ONCE(1, "waterbear: %.*s\n", length, text);
}
