// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The guest and its code. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "exits.h"

/*
 * Each routine takes r15 samples of BODY, stores them at r14 onwards, and
 * then signals PORT_DONE.  r13 is an address for BODY and grows by rbp every
 * time.  BODY may use rax, rbx, rcx and rdx.
 */
#define ROUTINE(name, body)						\
	".globl g_" name "\n g_" name ":\n"				\
	"1:	rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %r12\n" \
	body								\
	"	rdtsc\n shl $32, %rdx\n or %rdx, %rax\n sub %r12, %rax\n" \
	"	mov %rax, (%r14)\n add $8, %r14\n add %rbp, %r13\n"	\
	"	dec %r15\n jnz 1b\n jmp g_done\n"

asm(
	".pushsection .rodata\n"
	".balign 16\n"
	".globl g_begin\n g_begin:\n"
	ROUTINE("empty",     "")
	ROUTINE("cpuid0",    "	xor %eax, %eax\n cpuid\n")
	ROUTINE("cpuidx",    "	mov $0x80000008, %eax\n cpuid\n")
	ROUTINE("rdmsr",     "	mov $0x1b, %ecx\n rdmsr\n")	/* APIC base */
	ROUTINE("pio_out",   "	out %al, $0xf5\n")
	ROUTINE("pio_in",    "	in $0xf5, %al\n")
	ROUTINE("mmio_wr",   "	mov %eax, (%r13)\n")
	ROUTINE("mmio_rd",   "	mov (%r13), %eax\n")
	ROUTINE("hlt",       "	hlt\n")
	ROUTINE("touch_wr",  "	movb $1, (%r13)\n")
	ROUTINE("touch_rd",  "	movb (%r13), %al\n")
	".globl g_done\n"
	"g_done:	out %al, $0xf4\n jmp g_done\n"
	".globl g_end\n g_end:\n"
	".popsection\n"
);

static int kvm_fd;
int vm_fd, vcpu_fd;
struct kvm_run *run;
static uint8_t *low;			/* slot 0 in our address space */

void set_slot(uint32_t slot, uint64_t gpa, void *hva, uint64_t size,
		     uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &r))
		die("KVM_SET_USER_MEMORY_REGION slot %u size %lu", slot, size);
}

/* Anonymous memory at a 2 MiB boundary, every page populated. */
uint8_t *alloc_mem(uint64_t size, int huge, void **base, uint64_t *len)
{
	uint8_t *p;
	uint64_t off;

	*len = size + HUGE_PAGE;
	*base = mmap(NULL, *len, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (*base == MAP_FAILED)
		die("mmap");
	p = (uint8_t *)(((uintptr_t)*base + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	madvise(p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (off = 0; off < size; off += PAGE)
		p[off] = 1;
	return p;
}

static void set_cpuid(void)
{
	enum { MAX = 256 };
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX * sizeof(c->entries[0]));

	c->nent = MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c))
		die("KVM_GET_SUPPORTED_CPUID");
	if (ioctl(vcpu_fd, KVM_SET_CPUID2, c))
		die("KVM_SET_CPUID2");
	report("cpuid_entries: %u", c->nent);
	free(c);
}

void create_vm(const char *device)
{
	uint64_t *pml4, *pdpt, *pd, len;
	struct kvm_segment code = {
		.base = 0, .limit = 0xffffffff, .selector = 0x08, .type = 11,
		.present = 1, .s = 1, .l = 1, .g = 1,
	};
	struct kvm_segment data = {
		.base = 0, .limit = 0xffffffff, .selector = 0x10, .type = 3,
		.present = 1, .s = 1, .db = 1, .g = 1,
	};
	struct kvm_sregs s;
	void *base;
	int i, size;

	kvm_fd = open(device, O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		die("open %s", device);
	report("device: %s", device);
	report("api_version: %d", ioctl(kvm_fd, KVM_GET_API_VERSION, 0));
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		die("KVM_CREATE_VM");

	/* Only VMX needs this; elsewhere it does no harm or is refused. */
	ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL);

	low = alloc_mem(LOW_SIZE, 0, &base, &len);
	set_slot(SLOT_LOW, 0, low, LOW_SIZE, 0);

	/* Accessed and dirty are preset, so walks have nothing to write. */
	pml4 = (uint64_t *)(low + GPA_PML4);
	pdpt = (uint64_t *)(low + GPA_PDPT);
	pd = (uint64_t *)(low + GPA_PD);
	pml4[0] = GPA_PDPT | 0x23;
	pdpt[0] = GPA_PD | 0x23;
	for (i = 0; i < 512; i++)
		pd[i] = i * HUGE_PAGE | 0xe3;
	memcpy(low + GPA_CODE, g_begin, g_end - g_begin);

	vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu_fd < 0)
		die("KVM_CREATE_VCPU");
	size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED)
		die("mmap vcpu");
	set_cpuid();

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &s))
		die("KVM_GET_SREGS");
	s.cr0 = 0x80010033;		/* PG WP NE ET MP PE */
	s.cr3 = GPA_PML4;
	s.cr4 = 0x20;			/* PAE */
	s.efer = 0x500;			/* LME LMA */
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &s))
		die("KVM_SET_SREGS");
}

/* Run one guest routine to completion, answering its exits. */
uint64_t *guest(const char *routine, uint64_t count, uint64_t addr,
		       uint64_t stride)
{
	struct kvm_regs r = {
		.rip = GPA_CODE + (routine - g_begin),
		.rflags = 2,
		.r13 = addr,
		.r14 = GPA_SAMPLES,
		.r15 = count,
		.rbp = stride,
	};

	if (count > MAX_SAMPLES)
		die("too many samples asked for");
	if (ioctl(vcpu_fd, KVM_SET_REGS, &r))
		die("KVM_SET_REGS");
	for (;;) {
		if (ioctl(vcpu_fd, KVM_RUN, 0)) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			die("KVM_RUN");
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.port == PORT_DONE)
				return (uint64_t *)(low + GPA_SAMPLES);
			break;
		case KVM_EXIT_MMIO:
		case KVM_EXIT_HLT:
			break;
		default:
			die("unexpected exit %u", run->exit_reason);
		}
	}
}

/*
 * Have the guest use everything of slot 0 that the next routine will need, so
 * that it takes no faults there (deleting any slot may unmap all of them).
 */
void warm(uint64_t count)
{
	guest(g_empty, count, 0, 0);
}
