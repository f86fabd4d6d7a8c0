/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What C and Rust call of each other, on every kernel.
 *
 * C is here for what only C can reach: macros, inline functions and the
 * fields of kernel structures. Each function is one kernel call where that
 * can be; what it means stands at the HAL item that it implements. src/glue.rs
 * declares the same.
 */
#ifndef WATERBEAR_GLUE_H
#define WATERBEAR_GLUE_H

#ifdef __linux__
#include <linux/types.h>
#else
#include <sys/types.h>
#endif

struct file;
struct wb_bell;
struct wb_fpu;
struct wb_mutex;
struct wb_queue;
struct wb_rwlock;
struct wb_space;
struct wb_srcu;

/* Numbers of errors that are not the same everywhere. */
struct wb_numbers {
	int again;
	int not_supported;
	int poisoned;
};
extern const struct wb_numbers wb_numbers;

/* Memory, all zero. Pages are given by where the kernel sees them. */
extern unsigned long wb_direct_map;
void *wb_alloc_pages(unsigned long count);
void wb_free_pages(void *pages, unsigned long count);
void wb_free_page_deferred(void *page);
void *wb_alloc(size_t size, size_t alignment);
void wb_free(void *memory);

/* Read sections. */
void wb_rcu_lock(void);
void wb_rcu_unlock(void);
void wb_rcu_barrier(void);
struct wb_srcu *wb_srcu_new(void);
void wb_srcu_free(struct wb_srcu *domain);
int wb_srcu_lock(struct wb_srcu *domain);
void wb_srcu_unlock(struct wb_srcu *domain, int token);
void wb_srcu_synchronize(struct wb_srcu *domain);

/* Locks. The kernel's check of their order knows them by their rank. */
struct wb_mutex *wb_mutex_new(unsigned int rank);
void wb_mutex_free(struct wb_mutex *lock);
void wb_mutex_lock(struct wb_mutex *lock);
bool wb_mutex_lock_killable(struct wb_mutex *lock);
void wb_mutex_unlock(struct wb_mutex *lock);
struct wb_rwlock *wb_rwlock_new(unsigned int rank);
void wb_rwlock_free(struct wb_rwlock *lock);
void wb_read_lock(struct wb_rwlock *lock);
void wb_read_unlock(struct wb_rwlock *lock);
void wb_write_lock(struct wb_rwlock *lock);
void wb_write_unlock(struct wb_rwlock *lock);
bool wb_rwlock_contended(struct wb_rwlock *lock);

/* CPUs. A set is an array of bits for the CPUs below WB_MAX_CPUS. */
#define WB_MAX_CPUS 1024
unsigned int wb_cpu(void);
unsigned int wb_pin(void);
void wb_unpin(void);
unsigned long wb_irq_save(void);
void wb_irq_restore(unsigned long flags);
void wb_kick(const unsigned long *cpus);
void wb_call_on(const unsigned long *cpus, void (*call)(void *), void *context);
unsigned int wb_cpu_count(void);
bool wb_is_online(unsigned int cpu);
void wb_hold_cpus(void);
void wb_unhold_cpus(void);
bool wb_change_cr4(unsigned long set, unsigned long clear);
void wb_task_register_was_cut(void);
bool wb_distrusts_predictions(void);

/* Clocks. */
unsigned int wb_tsc_khz(void);
bool wb_tsc_is_stable(void);
uint64_t wb_boot_time(void);
uint64_t wb_wall_time(void);

/* The calling thread. */
bool wb_should_yield(void);
void wb_yield(void);
bool wb_signal_pending(void);
bool wb_held_up(void);
struct wb_signals {
	uint64_t words[2];
};
void wb_signals_mask(uint64_t mask, struct wb_signals *before);
void wb_signals_unmask(const struct wb_signals *before);
struct wb_queue *wb_queue_new(void);
void wb_queue_free(struct wb_queue *queue);
bool wb_queue_wait(struct wb_queue *queue, bool interruptible,
		   bool (*ready)(void *), void *context);
bool wb_queue_wake(struct wb_queue *queue);

/* FPU. */
struct wb_fpu *wb_fpu_new(void);
void wb_fpu_free(struct wb_fpu *fpu);
void wb_fpu_load(struct wb_fpu *fpu);
void wb_fpu_unload(struct wb_fpu *fpu);
void wb_fpu_refresh(void);
bool wb_fpu_read(struct wb_fpu *fpu, void *into, size_t size);
bool wb_fpu_write(struct wb_fpu *fpu, const void *from, size_t size);

/* User memory. Functions that return bool say whether they worked. */
struct wb_space *wb_space_hold(void);
void wb_space_drop(struct wb_space *space);
bool wb_space_is_current(const struct wb_space *space);
/* The VM hears of changes from here to there. 0 or an error, negated. */
int wb_space_watch(struct wb_space *space, const void *vm);
void wb_space_unwatch(struct wb_space *space);
/* The page behind an address, referred to until it is released. */
struct wb_page {
	unsigned long pfn;
	/* Log2 of the bytes that one entry of the host's tables maps there. */
	unsigned int shift;
	bool writable;
	bool uncached;
};
/* 0 or an error, negated. */
int wb_resolve(struct wb_space *space, unsigned long address, bool write,
	       struct wb_page *found);
void wb_release_page(unsigned long pfn, bool dirty);
bool wb_read(struct wb_space *space, void *to, unsigned long from, size_t size);
bool wb_write(struct wb_space *space, unsigned long to, const void *from,
	      size_t size);
/* What was there comes back in *old. */
bool wb_exchange(struct wb_space *space, unsigned long at, size_t size,
		 uint64_t *old, uint64_t new);
bool wb_copy_in(void *to, unsigned long from, size_t size);
bool wb_copy_out(unsigned long to, const void *from, size_t size);

/* With the feature "notifications". */
bool wb_read_trylock(struct wb_rwlock *lock);
/* As wb_resolve, without a reference: the frame << 8 | the shift, or 0. */
unsigned long wb_resolve_now(struct wb_space *space, unsigned long address);
bool wb_read_now(struct wb_space *space, const unsigned long *from,
		 uint64_t *to, size_t count);
void waterbear_change_begin(const void *vm, unsigned long start,
			    unsigned long end, bool may_sleep);
void waterbear_change_end(const void *vm, unsigned long start,
			  unsigned long end);
bool waterbear_age(const void *vm, unsigned long start, unsigned long end);
bool waterbear_is_young(const void *vm, unsigned long start, unsigned long end);

/* With the feature "bells". NULL and an error, negated, if it is none. */
struct wb_bell *wb_bell_get(int descriptor, int *error);
void wb_bell_ring(struct wb_bell *bell);
void wb_bell_put(struct wb_bell *bell);

/* The log. */
void wb_info(const char *text, int length);
void wb_bug(const char *text, int length);

/* The module. 0 or an error, negated; then nothing has changed. */
int waterbear_init(void);
int waterbear_exit(void);
/* CPUs that come and go, where they do. */
int waterbear_cpu_online(unsigned int cpu);
int waterbear_cpu_offline(unsigned int cpu);
void waterbear_suspend(void);
void waterbear_resume(void);
void waterbear_shutdown(void);
int wb_node_add(void);
void wb_node_remove(void);
/* The port calls the functions above that tell of CPUs, from here to there. */
int wb_watch_cpus(void);
void wb_unwatch_cpus(void);

/*
 * Descriptors. One that is reserved refers to nothing until it is given an
 * object, which it then owns and releases. NULL, and an error, negated, in
 * *descriptor if there is none to be had.
 */
enum wb_kind { WB_VM, WB_VCPU, WB_STATS };
struct file *wb_file_reserve(enum wb_kind kind, int *descriptor);
void wb_file_install(struct file *file, int descriptor, enum wb_kind kind,
		     void *object);
void wb_file_cancel(struct file *file, int descriptor);

/* A number that is not negative, or an error, negated. */
long waterbear_system_ioctl(unsigned int command, unsigned long argument);
long waterbear_vm_ioctl(void *vm, unsigned int command, unsigned long argument);
void waterbear_vm_release(void *vm);
long waterbear_vcpu_ioctl(void *vcpu, unsigned int command,
			  unsigned long argument);
/* The frame of a page of the memory that a vCPU shares, or 0. */
unsigned long waterbear_vcpu_page(void *vcpu, unsigned long page);
void waterbear_vcpu_release(void *vcpu);
/* With the feature "statistics". */
long waterbear_stats_read(void *stats, unsigned long to, size_t size,
			  uint64_t offset);
void waterbear_stats_release(void *stats);

#endif
