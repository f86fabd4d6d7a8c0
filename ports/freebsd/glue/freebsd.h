/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What C and Rust call of each other on FreeBSD alone, and C of C. */
#ifndef WATERBEAR_FREEBSD_H
#define	WATERBEAR_FREEBSD_H

#include <sys/types.h>

struct thread;
struct wb_space;

/* Pages that others may free are kept until somebody lets go of them. */
void	 wb_hold_page(u_long pfn);
void	 wb_unhold_page(u_long pfn);

/* What goes on behind the module's back, from loading to unloading. */
int	 wb_rcu_start(void);
void	 wb_rcu_stop(void);
int	 wb_cpus_start(void);
void	 wb_cpus_stop(void);

/* How many pages a VM may pin. Locked while its slots change. */
void	 wb_space_lock(struct wb_space *space);
void	 wb_space_unlock(struct wb_space *space);
bool	 wb_space_charge(struct wb_space *space, u_long pages);
void	 wb_share_with_children(u_long start, u_long size);

/* The public header's number of a command, or 0. */
u_int	 waterbear_decoded(u_long command);
/* As waterbear_vm_ioctl, of FreeBSD's numbers. */
long	 waterbear_vm_command(void *vm, u_long command, u_long argument);
int	 wb_answer(struct thread *thread, long result);

/* Memory of ours is mapped: what keeps the module until that is over. */
void	*waterbear_mapping_begin(void);
void	 waterbear_mapping_end(void *mapping);

#endif
