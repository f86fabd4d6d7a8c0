// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Exits and what they are compared with. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exits.h"

uint64_t guest_overhead, user_overhead;

static void bench_exit(const char *name, const char *routine, uint64_t n,
		       uint64_t addr)
{
	warm(n);
	guest(routine, n < 64 ? n : 64, addr, 0);
	report_samples(name, guest(routine, n, addr, 0), n, guest_overhead);
}

static uint64_t plain_loop(uint32_t turns)	/* 2 instructions a turn */
{
	uint64_t t = rdtsc();

	asm volatile("1: dec %0\n jnz 1b" : "+r"(turns));
	return rdtsc() - t;
}

static uint64_t string_store(void *buf, uint64_t len)
{
	uint64_t t = rdtsc();

	asm volatile("rep stosb" : "+D"(buf), "+c"(len) : "a"(0) : "memory");
	return rdtsc() - t;
}

static void calibrate(void)
{
	static uint8_t buf[8192];
	static uint64_t s[1000];
	uint64_t a, b, i, *g;

	for (i = 0; i < 1000; i++) {
		a = rdtsc();
		s[i] = rdtsc() - a;
	}
	qsort(s, 1000, sizeof(s[0]), cmp_u64);
	user_overhead = s[500];
	report("user_overhead: %lu", user_overhead);

	warm(1000);
	g = guest(g_empty, 1000, 0, 0);
	memcpy(s, g, sizeof(s));
	qsort(s, 1000, sizeof(s[0]), cmp_u64);
	guest_overhead = s[500];
	report("guest_overhead: %lu", guest_overhead);

	/* The difference of two lengths leaves 2 * 100000 instructions. */
	plain_loop(1000);
	a = plain_loop(100000);
	b = plain_loop(200000);
	report("ticks_per_insn: %.4f", (double)(b - a) / 200000);

	string_store(buf, 8192);
	a = string_store(buf, 4096);
	b = string_store(buf, 8192);
	report("ticks_per_rep_stosb_byte: %.4f", (double)(b - a) / 4096);
}

static void bench_floors(uint64_t n)
{
	static uint64_t s[MAX_SAMPLES];
	uint64_t i, t;

	for (i = 0; i < n; i++) {
		t = rdtsc();
		syscall(SYS_getppid);
		s[i] = rdtsc() - t;
	}
	report_samples("syscall_getppid", s, n, user_overhead);

	for (i = 0; i < n; i++) {
		t = rdtsc();
		ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY);
		s[i] = rdtsc() - t;
	}
	report_samples("ioctl_check_extension", s, n, user_overhead);

	run->immediate_exit = 1;
	for (i = 0; i < n; i++) {
		t = rdtsc();
		if (ioctl(vcpu_fd, KVM_RUN, 0) != -1 || errno != EINTR)
			die("immediate_exit did not return EINTR");
		s[i] = rdtsc() - t;
	}
	run->immediate_exit = 0;
	report_samples("run_immediate_exit", s, n, user_overhead);
}

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : "/dev/kvm";
	uint64_t n = argc > 2 ? strtoul(argv[2], NULL, 0) : 2000;
	uint64_t mib = argc > 3 ? strtoul(argv[3], NULL, 0) : 64;
	int rounds = argc > 4 ? atoi(argv[4]) : 5;
	uint64_t size = mib << 20;

	if (!n || n > MAX_SAMPLES || size % HUGE_PAGE || !size ||
	    size > MAX_MEM || size / PAGE > MAX_SAMPLES || rounds < 1) {
		fprintf(stderr, "usage: %s [device [iterations [even MiB [rounds]]]]\n",
			argv[0]);
		return 2;
	}

	create_vm(device);
	report("iterations: %lu", n);
	report("mem_mib: %lu", mib);
	report("rounds: %d", rounds);
	progress("exits");
	calibrate();

	bench_exit("cpuid_leaf0", g_cpuid0, n, 0);
	bench_exit("cpuid_leaf80000008", g_cpuidx, n, 0);
	bench_exit("rdmsr_apic_base", g_rdmsr, n, 0);
	bench_exit("pio_out", g_pio_out, n, 0);
	bench_exit("pio_in", g_pio_in, n, 0);
	bench_exit("mmio_write", g_mmio_wr, n, GPA_MMIO);
	bench_exit("mmio_read", g_mmio_rd, n, GPA_MMIO);
	bench_exit("hlt", g_hlt, n, 0);
	bench_floors(n);
	progress("4 KiB pages");
	bench_memory("mem4k", size, 0, rounds);
	progress("2 MiB pages");
	bench_memory("memthp", size, 1, rounds);

	print_results();
	return 0;
}
