/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What C and Rust call of each other.
 *
 * C is here for what only C can reach: macros, inline functions and the
 * fields of kernel structures. Each function is one kernel call; what it
 * means stands at the HAL item that it implements.
 */
#ifndef WATERBEAR_GLUE_H
#define WATERBEAR_GLUE_H

#include <linux/cpumask.h>
#include <linux/types.h>

struct eventfd_ctx;
struct file;
struct fpu_guest;
struct mm_struct;
struct mutex;
struct page;
struct srcu_struct;
struct swait_queue_head;
struct wb_notifier;

/* Memory. */
extern unsigned long wb_direct_map;
void *wb_alloc_page(void);
void wb_free_page(void *page);
void wb_free_page_deferred(void *page);
void *wb_alloc_pages(size_t size);
void wb_free_pages(void *pages, size_t size);
void *wb_alloc(size_t size);
void wb_free(void *memory);

/* Read sections. */
void wb_rcu_lock(void);
void wb_rcu_unlock(void);
void wb_rcu_barrier(void);
struct srcu_struct *wb_srcu_new(void);
void wb_srcu_free(struct srcu_struct *domain);
int wb_srcu_lock(struct srcu_struct *domain);
void wb_srcu_unlock(struct srcu_struct *domain, int token);
void wb_srcu_synchronize(struct srcu_struct *domain);

/* Locks. The rank picks the lockdep class. */
struct mutex *wb_mutex_new(const char *name, unsigned int rank);
void wb_mutex_lock(struct mutex *lock);
bool wb_mutex_lock_killable(struct mutex *lock);
void wb_mutex_unlock(struct mutex *lock);
void *wb_rwlock_new(const char *name, unsigned int rank);
void wb_read_lock(void *lock);
bool wb_read_trylock(void *lock);
void wb_read_unlock(void *lock);
void wb_write_lock(void *lock);
void wb_write_unlock(void *lock);
bool wb_rwlock_contended(void *lock);

/* CPUs. A set is an array of bits for the CPUs below WB_MAX_CPUS. */
#define WB_MAX_CPUS 1024
unsigned int wb_cpu(void);
unsigned int wb_pin(void);
void wb_unpin(void);
unsigned long wb_irq_save(void);
void wb_irq_restore(unsigned long flags);
void wb_kick(const unsigned long *cpus);
void wb_kick_and_wait(const unsigned long *cpus);
unsigned int wb_cpu_count(void);
unsigned int wb_next_online(unsigned int from);
void wb_hold_cpus(void);
void wb_unhold_cpus(void);
void wb_call_on(const unsigned long *cpus, void (*call)(void *), void *context);
void wb_change_cr4(unsigned long set, unsigned long clear);
void wb_task_register_was_cut(void);
bool wb_should_yield(void);
void wb_yield(void);
bool wb_signal_pending(void);
bool wb_held_up(void);
bool wb_distrusts_predictions(void);
void wb_signals_mask(u64 mask);
void wb_signals_unmask(void);
u64 wb_boot_time(void);
u64 wb_wall_time(void);
bool wb_tsc_is_stable(void);
struct swait_queue_head *wb_queue_new(void);
bool wb_queue_wait(struct swait_queue_head *queue, bool interruptible,
		   bool (*ready)(void *), void *context);
bool wb_queue_wake(struct swait_queue_head *queue);

/* FPU. */
struct fpu_guest *wb_fpu_new(void);
void wb_fpu_free(struct fpu_guest *fpu);
void wb_fpu_swap(struct fpu_guest *fpu, bool enter);
void wb_fpu_refresh(void);
bool wb_fpu_read(struct fpu_guest *fpu, void *into, size_t size);
bool wb_fpu_write(struct fpu_guest *fpu, const void *from, size_t size);

/* User memory. */
struct mm_struct *wb_mm_hold(void);
void wb_mm_drop(struct mm_struct *mm);
bool wb_mm_is_current(struct mm_struct *mm);
/* The page behind an address, referred to until it is released. */
struct wb_page {
	unsigned long pfn;
	/* Of the piece that one entry of the host's tables maps. */
	unsigned int shift;
	bool writable;
	bool uncached;
};
long wb_resolve(struct mm_struct *mm, unsigned long address, bool write,
		struct wb_page *found);
unsigned long wb_resolve_now(struct mm_struct *mm, unsigned long address);
void wb_release_page(unsigned long pfn, bool dirty);
bool wb_read(struct mm_struct *mm, void *to, unsigned long from, size_t size);
bool wb_read_now(struct mm_struct *mm, const unsigned long *from, u64 *to,
		 size_t count);
bool wb_write(struct mm_struct *mm, unsigned long to, const void *from,
	      size_t size);
bool wb_exchange(struct mm_struct *mm, unsigned long at, size_t size, u64 *old,
		 u64 new);
bool wb_copy_in(void *to, unsigned long from, size_t size);
bool wb_copy_out(unsigned long to, const void *from, size_t size);

/* Bells. */
struct eventfd_ctx *wb_bell_get(int descriptor, int *error);
void wb_bell_ring(struct eventfd_ctx *bell);
void wb_bell_put(struct eventfd_ctx *bell);

/* Change notifications. */
struct wb_notifier *wb_notifier_new(void);
int wb_notifier_start(struct wb_notifier *notifier, const void *vm);
void wb_notifier_free(struct wb_notifier *notifier);
void waterbear_change_begin(const void *vm, unsigned long start,
			    unsigned long end, bool may_sleep);
void waterbear_change_end(const void *vm, unsigned long start,
			  unsigned long end);
bool waterbear_age(const void *vm, unsigned long start, unsigned long end);
bool waterbear_is_young(const void *vm, unsigned long start, unsigned long end);

/* The log. */
void wb_info(const char *text, int length);
void wb_bug(const char *text, int length);

/* The module. */
int waterbear_init(void);
void waterbear_exit(void);
int waterbear_cpu_online(unsigned int cpu);
int waterbear_cpu_offline(unsigned int cpu);
int waterbear_suspend(void);
void waterbear_resume(void);
void waterbear_shutdown(unsigned int cpu);
int wb_node_add(void);
void wb_node_remove(void);
int wb_watch_cpus(void);
void wb_unwatch_cpus(void);

/*
 * Descriptors. A file that is made belongs to whoever made it until it is
 * installed or dropped; it owns its object, and releases it.
 */
enum wb_kind { WB_VM, WB_VCPU, WB_STATS };
struct file *wb_file_new(enum wb_kind kind, void *object, int *descriptor);
void wb_file_install(struct file *file, int descriptor);
void wb_file_drop(struct file *file, int descriptor);
long waterbear_system_ioctl(unsigned int command, unsigned long argument);
long waterbear_vm_ioctl(void *vm, unsigned int command, unsigned long argument);
void waterbear_vm_release(void *vm);
long waterbear_vcpu_ioctl(void *vcpu, unsigned int command,
			  unsigned long argument);
/* The frame of a page of the memory that a vCPU shares, or 0. */
unsigned long waterbear_vcpu_page(void *vcpu, unsigned long page);
void waterbear_vcpu_release(void *vcpu);
long waterbear_stats_read(void *stats, unsigned long to, size_t size,
			  unsigned long long offset);
void waterbear_stats_release(void *stats);

#endif
