// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The log, and numbers of errors. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/errno.h>
#include <sys/kdb.h>
#include <sys/time.h>

#include <machine/atomic.h>

#include "glue.h"

/* There is no number for memory that failed: a process gets EFAULT for it. */
const struct wb_numbers wb_numbers = {
	.again = EAGAIN,
	.not_supported = EOPNOTSUPP,
	.poisoned = EFAULT,
};

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
