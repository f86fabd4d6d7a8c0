// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Page faults, slots and dirty logs. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "exits.h"

/* KiB of transparent huge pages behind the mapping that contains p. */
static long huge_kib(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long lo, hi;
	long kib = -1, v;
	char line[512];
	int in = 0;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
			in = (unsigned long)p >= lo && (unsigned long)p < hi;
		else if (in && sscanf(line, "AnonHugePages: %ld", &v) == 1)
			kib = v;
	}
	fclose(f);
	return kib;
}

/*
 * Nanoseconds all CPUs have spent idle.  An ioctl that sleeps (waiting for an
 * RCU grace period, say) lets the clock run without executing anything, and
 * under -icount that shows up as ticks; this tells the two apart.
 */
static uint64_t idle_ns(void)
{
	FILE *f = fopen("/proc/timer_list", "r");
	unsigned long sum = 0, v;
	char line[256];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " .idle_sleeptime : %lu", &v) == 1)
			sum += v;
	fclose(f);
	return sum;
}

struct cost {
	uint64_t ticks, idle;
};

static struct cost dirty_log_ioctl(void *bitmap)
{
	struct kvm_dirty_log d = { .slot = SLOT_MEM, .dirty_bitmap = bitmap };
	uint64_t idle = idle_ns();
	struct cost c;

	c.ticks = rdtsc();
	if (ioctl(vm_fd, KVM_GET_DIRTY_LOG, &d))
		die("KVM_GET_DIRTY_LOG");
	c.ticks = rdtsc() - c.ticks;
	c.idle = idle_ns() - idle;
	return c;
}

static struct cost slot_ioctl(void *hva, uint64_t size, uint32_t flags)
{
	uint64_t idle = idle_ns();
	struct cost c;

	c.ticks = rdtsc();
	set_slot(SLOT_MEM, GPA_MEM, hva, size, flags);
	c.ticks = rdtsc() - c.ticks;
	c.idle = idle_ns() - idle;
	return c;
}

static uint64_t count_bits(const uint64_t *map, uint64_t pages)
{
	uint64_t i, n = 0;

	for (i = 0; i < pages / 64; i++)
		n += __builtin_popcountl(map[i]);
	return n;
}

static void touch(const char *prefix, const char *name, const char *routine,
		  uint64_t pages)
{
	char full[96];

	warm(pages);
	snprintf(full, sizeof(full), "%s.%s", prefix, name);
	report_touches(full, guest(routine, pages, GPA_MEM, PAGE), pages,
		       guest_overhead);
}

void bench_memory(const char *prefix, uint64_t size, int huge, int rounds)
{
	enum { DEL, ADD, LOG_ON, LOG_OFF, GET_ALL, GET_NONE, N_IOCTL };
	static const char *const names[N_IOCTL] = {
		"slot_delete", "slot_add", "dirty_log_on", "dirty_log_off",
		"get_dirty_log_all", "get_dirty_log_none",
	};
	uint64_t pages = size / PAGE, len, i, *bitmap, v[rounds];
	struct cost t[N_IOCTL][rounds];
	void *base;
	uint8_t *mem = alloc_mem(size, huge, &base, &len);
	char full[96];
	int r, k;

	bitmap = calloc(pages / 64, 8);
	for (i = 0; i < pages / 64; i++)	/* populate it */
		bitmap[i] = ~0UL;
	report("%s.anon_huge_kib: %ld", prefix, huge_kib(mem));

	/* First touches, then touches of mapped memory. */
	set_slot(SLOT_MEM, GPA_MEM, mem, size, 0);
	touch(prefix, "first_write", g_touch_wr, pages);
	touch(prefix, "mapped_write", g_touch_wr, pages);

	/* Delete and re-add the slot, and touch it all again. */
	for (r = 0; r < rounds; r++) {
		t[DEL][r] = slot_ioctl(mem, 0, 0);
		t[ADD][r] = slot_ioctl(mem, size, 0);
		if (r == rounds - 1)
			touch(prefix, "refault_write", g_touch_wr, pages);
		else
			guest(g_touch_wr, pages, GPA_MEM, PAGE);
	}
	set_slot(SLOT_MEM, GPA_MEM, mem, 0, 0);
	set_slot(SLOT_MEM, GPA_MEM, mem, size, 0);
	touch(prefix, "refault_read", g_touch_rd, pages);

	/* Dirty logging, from a fully mapped slot and back to one. */
	for (r = 0; r < rounds; r++) {
		int last = r == rounds - 1;

		guest(g_touch_wr, pages, GPA_MEM, PAGE);
		t[LOG_ON][r] = slot_ioctl(mem, size, KVM_MEM_LOG_DIRTY_PAGES);
		if (last)
			touch(prefix, "log_first_write", g_touch_wr, pages);
		else
			guest(g_touch_wr, pages, GPA_MEM, PAGE);
		t[GET_ALL][r] = dirty_log_ioctl(bitmap);
		if (count_bits(bitmap, pages) != pages)
			die("%lu of %lu pages dirty", count_bits(bitmap, pages), pages);
		if (last)
			touch(prefix, "log_rewrite", g_touch_wr, pages);
		else
			guest(g_touch_wr, pages, GPA_MEM, PAGE);
		dirty_log_ioctl(bitmap);
		if (count_bits(bitmap, pages) != pages)
			die("rewrite: %lu of %lu pages dirty", count_bits(bitmap, pages), pages);
		t[GET_NONE][r] = dirty_log_ioctl(bitmap);
		if (count_bits(bitmap, pages))
			die("%lu pages dirty, expected none", count_bits(bitmap, pages));
		t[LOG_OFF][r] = slot_ioctl(mem, size, 0);
		if (last)
			touch(prefix, "log_off_write", g_touch_wr, pages);
	}

	for (k = 0; k < N_IOCTL; k++) {
		snprintf(full, sizeof(full), "%s.%s", prefix, names[k]);
		for (r = 0; r < rounds; r++)
			v[r] = t[k][r].ticks;
		report_samples(full, v, rounds, user_overhead);
		for (r = 0; r < rounds; r++)
			v[r] = t[k][r].idle;
		qsort(v, rounds, sizeof(v[0]), cmp_u64);
		report("%s.idle_ns: %lu", full, v[rounds / 2]);
	}
	set_slot(SLOT_MEM, GPA_MEM, mem, 0, 0);
	munmap(base, len);
	free(bitmap);
}
