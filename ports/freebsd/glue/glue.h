/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What C and Rust call of each other.
 *
 * C is here for what only C can reach: macros, inline functions and the
 * fields of kernel structures. What a function means stands at the HAL item
 * that it implements.
 */
#ifndef WATERBEAR_GLUE_H
#define	WATERBEAR_GLUE_H

#include <sys/types.h>
#include <sys/malloc.h>

struct file;
struct thread;
struct wb_space;
struct wb_fpu;
struct wb_mutex;
struct wb_queue;
struct wb_rwlock;

MALLOC_DECLARE(M_WATERBEAR);

/* Memory. Pages are given by where the kernel sees them. */
extern u_long wb_direct_map;
void	*wb_alloc_pages(u_long count);
void	 wb_free_pages(void *pages, u_long count);
void	 wb_hold_page(u_long pfn);
void	 wb_unhold_page(u_long pfn);
void	 wb_free_page_deferred(void *page);
void	*wb_alloc(size_t size, size_t alignment);
void	 wb_free(void *memory);

/* Read sections. */
int	 wb_rcu_start(void);
void	 wb_rcu_stop(void);
void	 wb_rcu_lock(void);
void	 wb_rcu_unlock(void);
void	 wb_rcu_barrier(void);

/* Locks. WITNESS knows them by their rank. */
struct wb_mutex *wb_mutex_new(u_int rank);
void	 wb_mutex_free(struct wb_mutex *lock);
void	 wb_mutex_lock(struct wb_mutex *lock);
bool	 wb_mutex_lock_killable(struct wb_mutex *lock);
void	 wb_mutex_unlock(struct wb_mutex *lock);
void	 wb_mutex_lock_shared(struct wb_mutex *lock);
void	 wb_mutex_unlock_shared(struct wb_mutex *lock);
struct wb_rwlock *wb_rwlock_new(u_int rank);
void	 wb_rwlock_free(struct wb_rwlock *lock);
void	 wb_read_lock(struct wb_rwlock *lock);
void	 wb_read_unlock(struct wb_rwlock *lock);
void	 wb_write_lock(struct wb_rwlock *lock);
void	 wb_write_unlock(struct wb_rwlock *lock);
bool	 wb_rwlock_contended(struct wb_rwlock *lock);

/* CPUs. A set is an array of bits for the CPUs below WB_MAX_CPUS. */
#define	WB_MAX_CPUS	1024
int	 wb_cpus_start(void);
void	 wb_cpus_stop(void);
u_int	 wb_cpu(void);
u_int	 wb_pin(void);
void	 wb_unpin(void);
u_long	 wb_irq_save(void);
void	 wb_irq_restore(u_long flags);
void	 wb_kick(const u_long *cpus);
void	 wb_kick_and_wait(const u_long *cpus);
u_int	 wb_cpu_count(void);
bool	 wb_is_online(u_int cpu);
void	 wb_call_on(const u_long *cpus, void (*call)(void *), void *context);
void	 wb_task_register_was_cut(void);
uint64_t wb_boot_time(void);
uint64_t wb_wall_time(void);
bool	 wb_tsc_is_stable(void);
bool	 wb_should_yield(void);
void	 wb_yield(void);
bool	 wb_signal_pending(void);
struct wb_signals { uint32_t words[4]; };
void	 wb_signals_mask(uint64_t mask, struct wb_signals *before);
void	 wb_signals_unmask(const struct wb_signals *before);
struct wb_queue *wb_queue_new(void);
bool	 wb_queue_wait(struct wb_queue *queue, bool interruptible,
	    bool (*ready)(void *), void *context);
bool	 wb_queue_wake(struct wb_queue *queue);

/* FPU. */
struct wb_fpu *wb_fpu_new(void);
void	 wb_fpu_free(struct wb_fpu *fpu);
void	 wb_fpu_load(struct wb_fpu *fpu);
void	 wb_fpu_unload(struct wb_fpu *fpu);
void	 wb_fpu_refresh(void);
bool	 wb_fpu_read(struct wb_fpu *fpu, void *into, size_t size);
bool	 wb_fpu_write(struct wb_fpu *fpu, const void *from, size_t size);

/* User memory. Functions that can fail on it say whether they worked. */
struct wb_space *wb_space_hold(void);
void	 wb_space_drop(struct wb_space *space);
bool	 wb_space_charge(struct wb_space *space, u_long old, u_long new);
bool	 wb_space_is_current(struct wb_space *space);
bool	 wb_resolve(struct wb_space *space, u_long address, bool write,
	    u_long *pfn, bool *writable, bool *uncached);
void	 wb_release_page(u_long pfn, bool dirty);
void	 wb_share_with_children(u_long start, u_long size);
bool	 wb_read(struct wb_space *space, void *to, u_long from, size_t size);
bool	 wb_write(struct wb_space *space, u_long to, const void *from,
	    size_t size);
bool	 wb_exchange(struct wb_space *space, u_long at, size_t size,
	    uint64_t *old, uint64_t new);
bool	 wb_copy_in(void *to, u_long from, size_t size);
bool	 wb_copy_out(u_long to, const void *from, size_t size);

/* The log. */
void	 wb_info(const char *text, int length);
void	 wb_bug(const char *text, int length);
void	 wb_panic(const char *text, int length) __dead2;

/* The module. */
int	 waterbear_init(void);
int	 waterbear_exit(void);
void	 waterbear_suspend(void);
void	 waterbear_resume(void);
void	 waterbear_shutdown(void);
int	 wb_node_add(void);
void	 wb_node_remove(void);

/*
 * Descriptors. One that is reserved refers to nothing until it is given an
 * object, which it then owns and releases.
 */
enum wb_kind { WB_VM, WB_VCPU };
struct file *wb_file_reserve(int *descriptor, int *error);
void	 wb_file_install(struct file *file, enum wb_kind kind, void *object);
void	 wb_file_cancel(struct file *file, int descriptor);

/* A number that is not negative, or an error number, negated. */
long	 waterbear_system_ioctl(u_long command, u_long argument);
long	 waterbear_vm_ioctl(void *vm, u_long command, u_long argument);
void	 waterbear_vm_release(void *vm);
long	 waterbear_vcpu_ioctl(void *vcpu, u_long command, u_long argument);
/* The frame of a page of the memory that a vCPU shares, or 0. */
u_long	 waterbear_vcpu_page(void *vcpu, u_long page);
/* Memory of ours is mapped: what keeps the module until that is over. */
void	*waterbear_mapping_begin(void);
void	 waterbear_mapping_end(void *mapping);
void	 waterbear_vcpu_release(void *vcpu);
int	 wb_answer(struct thread *thread, long result);

#endif
