/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What C and Rust call of each other on Linux alone. */
#ifndef WATERBEAR_LINUX_H
#define WATERBEAR_LINUX_H

#include <linux/types.h>

/* CPUs that come and go. */
int waterbear_cpu_online(unsigned int cpu);
int waterbear_cpu_offline(unsigned int cpu);

/* What the kernel tells of the owner's memory. */
void waterbear_change_begin(const void *vm, unsigned long start,
			    unsigned long end, bool may_sleep);
void waterbear_change_end(const void *vm, unsigned long start,
			  unsigned long end);
bool waterbear_age(const void *vm, unsigned long start, unsigned long end);
bool waterbear_is_young(const void *vm, unsigned long start, unsigned long end);

#endif
