// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* What was measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "exits.h"

void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "exits: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, " (errno %d: %s)\n", err, strerror(err));
	va_end(ap);
	exit(1);
}

/* Says what comes next, and waits until the console has it. */
void progress(const char *what)
{
	fprintf(stderr, "MEASURING %s\n", what);
	tcdrain(2);
}

/* Results are kept here and printed at the end. */
static char *results[512];
static int n_results;

void report(const char *fmt, ...)
{
	va_list ap;

	if (n_results == (int)(sizeof(results) / sizeof(results[0])))
		die("too many results");
	va_start(ap, fmt);
	if (vasprintf(&results[n_results++], fmt, ap) < 0)
		die("vasprintf");
	va_end(ap);
}

int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Subtract the rdtsc overhead, then report min / median / mean / max. */
void report_samples(const char *name, const uint64_t *s, uint64_t n,
			   uint64_t overhead)
{
	static uint64_t v[MAX_SAMPLES];
	uint64_t i, sum = 0;

	for (i = 0; i < n; i++) {
		v[i] = s[i] > overhead ? s[i] - overhead : 0;
		sum += v[i];
	}
	qsort(v, n, sizeof(v[0]), cmp_u64);
	report("%s.min: %lu", name, v[0]);
	report("%s.median: %lu", name, v[n / 2]);
	report("%s.mean: %.1f", name, (double)sum / n);
	report("%s.max: %lu", name, v[n - 1]);
}

/* As above, for page touches: also how many faulted, and the total. */
void report_touches(const char *name, const uint64_t *s, uint64_t n,
			   uint64_t overhead)
{
	static uint64_t v[MAX_SAMPLES];
	uint64_t i, faults = 0, total = 0;

	for (i = 0; i < n; i++) {
		uint64_t d = s[i] > overhead ? s[i] - overhead : 0;

		total += d;
		if (d > FAULT_THRESHOLD)
			v[faults++] = d;
	}
	report("%s.touches: %lu", name, n);
	report("%s.faults: %lu", name, faults);
	report("%s.total: %lu", name, total);
	if (faults)
		report_samples(name, v, faults, 0);
}

void print_results(void)
{
	for (int i = 0; i < n_results; i++)
		puts(results[i]);
}
