// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What the basic operations of the KVM interface cost.
 *
 * Usage: exits [DEVICE [ITERATIONS [MEM_MIB [ROUNDS]]]]
 *        defaults:  /dev/kvm  2000        64       5
 *
 * Creates one VM with one 64-bit vCPU (long mode, identity mapped, no
 * in-kernel irqchip) and measures, in ticks of the TSC:
 *
 *   - exits handled by the kernel:  CPUID, RDMSR
 *   - exits handled in user space:  OUT, IN, MMIO write, MMIO read, HLT
 *   - KVM_RUN with immediate_exit set, and two floors to compare it with
 *   - nested-page faults on memory that user space has already populated,
 *     with 4 KiB backing and with transparent huge pages
 *   - deleting and re-adding a memory slot, and the faults that follow
 *   - dirty logging: switching it on and off, KVM_GET_DIRTY_LOG, and the
 *     write-protection faults that follow
 *
 * Every per-operation sample is taken inside the guest (rdtsc; op; rdtsc), so
 * it is the full guest-to-guest round trip including the user-space run loop.
 * ioctl costs are sampled in user space the same way.  All values printed are
 * net: the cost of the empty rdtsc pair has been subtracted.  Output is one
 * "name: value" per line, printed only after the last measurement so that
 * console output does not disturb anything.
 *
 * On real hardware a tick is a TSC cycle.  Under QEMU TCG with
 * "-icount shift=0,align=off,sleep=off" a tick is one executed instruction
 * (of the L1 user program, the L1 kernel and the guest together), and the
 * calibration lines at the top of the output let the reader check that.
 *
 * Build: cc -O2 -Wall -static -o exits *.c
 */
#pragma once

#include <linux/kvm.h>
#include <stdint.h>

/* ---- guest physical layout ------------------------------------------- */

#define PAGE		4096UL
#define HUGE_PAGE	(2UL << 20)

#define LOW_SIZE	(4UL << 20)	/* slot 0: tables, code, samples      */
#define GPA_PML4	0x1000UL
#define GPA_PDPT	0x2000UL
#define GPA_PD		0x3000UL	/* 512 x 2 MiB = the first 1 GiB      */
#define GPA_CODE	0x8000UL
#define GPA_SAMPLES	0x100000UL	/* up to 3 MiB of 8-byte samples      */
#define MAX_SAMPLES	((LOW_SIZE - GPA_SAMPLES) / 8)
#define GPA_MEM		0x4000000UL	/* slot 1: the memory under test      */
#define GPA_MMIO	0x3fe00000UL	/* never backed by a slot             */
#define MAX_MEM		(GPA_MMIO - GPA_MEM)

#define PORT_DONE	0xf4
#define PORT_TEST	0xf5

#define SLOT_LOW	0
#define SLOT_MEM	1

/* A touch that costs more than this took a fault. */
#define FAULT_THRESHOLD	100

extern const char g_begin[], g_end[], g_empty[], g_cpuid0[], g_cpuidx[],
	g_rdmsr[], g_pio_out[], g_pio_in[], g_mmio_wr[], g_mmio_rd[], g_hlt[],
	g_touch_wr[], g_touch_rd[];

/* ---- report.c --------------------------------------------------------- */

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

void die(const char *fmt, ...);
void progress(const char *what);
void report(const char *fmt, ...);
int cmp_u64(const void *a, const void *b);
void report_samples(const char *name, const uint64_t *s, uint64_t n,
		    uint64_t overhead);
void report_touches(const char *name, const uint64_t *s, uint64_t n,
		    uint64_t overhead);
void print_results(void);

/* ---- vm.c ------------------------------------------------------------- */

extern int vm_fd, vcpu_fd;
extern struct kvm_run *run;

void create_vm(const char *device);
void set_slot(uint32_t slot, uint64_t gpa, void *hva, uint64_t size,
	      uint32_t flags);
uint8_t *alloc_mem(uint64_t size, int huge, void **base, uint64_t *len);
uint64_t *guest(const char *routine, uint64_t count, uint64_t addr,
		uint64_t stride);
void warm(uint64_t count);

/* ---- main.c, memory.c ------------------------------------------------- */

extern uint64_t guest_overhead, user_overhead;

void bench_memory(const char *prefix, uint64_t size, int huge, int rounds);
