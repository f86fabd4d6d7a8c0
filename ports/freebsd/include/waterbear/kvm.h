/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The KVM interface on FreeBSD, with the names and structures of
 * <linux/kvm.h>. Written by `cargo xtask abi`.
 *
 * FreeBSD copies an argument itself, by the size and direction in a command's
 * number. So here each number says that there is nothing to copy, and the
 * argument is the user pointer that it is on Linux; the direction is in the
 * group. Pass commands to ioctl(2) as they are.
 */
#ifndef WATERBEAR_KVM_H
#define	WATERBEAR_KVM_H

#include <sys/ioccom.h>
#include <stdint.h>

typedef int8_t __s8;
typedef int16_t __s16;
typedef int32_t __s32;
typedef int64_t __s64;
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef unsigned long long __u64;

#define	KVMIO	0xae
/* Groups: no direction, in, out, both; and the same again. */
#define	WATERBEAR_COMMAND(group, number)	_IO(KVMIO + (group), (number))

#define	KVM_COALESCED_MMIO_PAGE_OFFSET	2U
#define	KVM_DIRTY_LOG_PAGE_OFFSET	64U
#define	KVM_CPUID_FLAG_SIGNIFCANT_INDEX	1U
#define	KVM_CPUID_FLAG_STATEFUL_FUNC	2U
#define	KVM_CPUID_FLAG_STATE_READ_NEXT	4U
#define	KVM_VCPUEVENT_VALID_NMI_PENDING	1U
#define	KVM_VCPUEVENT_VALID_SIPI_VECTOR	2U
#define	KVM_VCPUEVENT_VALID_SHADOW	4U
#define	KVM_VCPUEVENT_VALID_SMM	8U
#define	KVM_VCPUEVENT_VALID_PAYLOAD	16U
#define	KVM_VCPUEVENT_VALID_TRIPLE_FAULT	32U
#define	KVM_X86_SHADOW_INT_MOV_SS	1U
#define	KVM_X86_SHADOW_INT_STI	2U
#define	KVM_API_VERSION	12U
#define	KVM_MEM_LOG_DIRTY_PAGES	1U
#define	KVM_MEM_READONLY	2U
#define	KVM_EXIT_HYPERV_SYNIC	1U
#define	KVM_EXIT_HYPERV_HCALL	2U
#define	KVM_EXIT_HYPERV_SYNDBG	3U
#define	KVM_EXIT_XEN_HCALL	1U
#define	KVM_EXIT_UNKNOWN	0U
#define	KVM_EXIT_EXCEPTION	1U
#define	KVM_EXIT_IO	2U
#define	KVM_EXIT_HYPERCALL	3U
#define	KVM_EXIT_DEBUG	4U
#define	KVM_EXIT_HLT	5U
#define	KVM_EXIT_MMIO	6U
#define	KVM_EXIT_IRQ_WINDOW_OPEN	7U
#define	KVM_EXIT_SHUTDOWN	8U
#define	KVM_EXIT_FAIL_ENTRY	9U
#define	KVM_EXIT_INTR	10U
#define	KVM_EXIT_SET_TPR	11U
#define	KVM_EXIT_TPR_ACCESS	12U
#define	KVM_EXIT_S390_SIEIC	13U
#define	KVM_EXIT_S390_RESET	14U
#define	KVM_EXIT_DCR	15U
#define	KVM_EXIT_NMI	16U
#define	KVM_EXIT_INTERNAL_ERROR	17U
#define	KVM_EXIT_OSI	18U
#define	KVM_EXIT_PAPR_HCALL	19U
#define	KVM_EXIT_S390_UCONTROL	20U
#define	KVM_EXIT_WATCHDOG	21U
#define	KVM_EXIT_S390_TSCH	22U
#define	KVM_EXIT_EPR	23U
#define	KVM_EXIT_SYSTEM_EVENT	24U
#define	KVM_EXIT_S390_STSI	25U
#define	KVM_EXIT_IOAPIC_EOI	26U
#define	KVM_EXIT_HYPERV	27U
#define	KVM_EXIT_ARM_NISV	28U
#define	KVM_EXIT_X86_RDMSR	29U
#define	KVM_EXIT_X86_WRMSR	30U
#define	KVM_EXIT_DIRTY_RING_FULL	31U
#define	KVM_EXIT_AP_RESET_HOLD	32U
#define	KVM_EXIT_X86_BUS_LOCK	33U
#define	KVM_EXIT_XEN	34U
#define	KVM_EXIT_RISCV_SBI	35U
#define	KVM_EXIT_RISCV_CSR	36U
#define	KVM_EXIT_NOTIFY	37U
#define	KVM_INTERNAL_ERROR_EMULATION	1U
#define	KVM_INTERNAL_ERROR_SIMUL_EX	2U
#define	KVM_INTERNAL_ERROR_DELIVERY_EV	3U
#define	KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON	4U
#define	KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES	1U
#define	KVM_EXIT_IO_IN	0U
#define	KVM_EXIT_IO_OUT	1U
#define	KVM_MP_STATE_RUNNABLE	0U
#define	KVM_MP_STATE_UNINITIALIZED	1U
#define	KVM_MP_STATE_INIT_RECEIVED	2U
#define	KVM_MP_STATE_HALTED	3U
#define	KVM_MP_STATE_SIPI_RECEIVED	4U
#define	KVM_MP_STATE_STOPPED	5U
#define	KVM_MP_STATE_CHECK_STOP	6U
#define	KVM_MP_STATE_OPERATING	7U
#define	KVM_MP_STATE_LOAD	8U
#define	KVM_MP_STATE_AP_RESET_HOLD	9U
#define	KVM_MP_STATE_SUSPENDED	10U
#define	KVM_IOEVENTFD_FLAG_DATAMATCH	1U
#define	KVM_IOEVENTFD_FLAG_PIO	2U
#define	KVM_IOEVENTFD_FLAG_DEASSIGN	4U
#define	KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY	8U
#define	KVM_IOEVENTFD_VALID_FLAG_MASK	31U
#define	KVM_GET_API_VERSION	WATERBEAR_COMMAND(0, 0x00)
#define	KVM_CREATE_VM	WATERBEAR_COMMAND(0, 0x01)
#define	KVM_GET_MSR_INDEX_LIST	WATERBEAR_COMMAND(3, 0x02)
#define	KVM_CHECK_EXTENSION	WATERBEAR_COMMAND(0, 0x03)
#define	KVM_GET_VCPU_MMAP_SIZE	WATERBEAR_COMMAND(0, 0x04)
#define	KVM_GET_SUPPORTED_CPUID	WATERBEAR_COMMAND(3, 0x05)
#define	KVM_GET_EMULATED_CPUID	WATERBEAR_COMMAND(3, 0x09)
#define	KVM_GET_MSR_FEATURE_INDEX_LIST	WATERBEAR_COMMAND(3, 0x0a)
#define	KVM_CAP_IRQCHIP	0U
#define	KVM_CAP_HLT	1U
#define	KVM_CAP_MMU_SHADOW_CACHE_CONTROL	2U
#define	KVM_CAP_USER_MEMORY	3U
#define	KVM_CAP_SET_TSS_ADDR	4U
#define	KVM_CAP_VAPIC	6U
#define	KVM_CAP_EXT_CPUID	7U
#define	KVM_CAP_CLOCKSOURCE	8U
#define	KVM_CAP_NR_VCPUS	9U
#define	KVM_CAP_NR_MEMSLOTS	10U
#define	KVM_CAP_PIT	11U
#define	KVM_CAP_NOP_IO_DELAY	12U
#define	KVM_CAP_PV_MMU	13U
#define	KVM_CAP_MP_STATE	14U
#define	KVM_CAP_COALESCED_MMIO	15U
#define	KVM_CAP_SYNC_MMU	16U
#define	KVM_CAP_IOMMU	18U
#define	KVM_CAP_DESTROY_MEMORY_REGION_WORKS	21U
#define	KVM_CAP_USER_NMI	22U
#define	KVM_CAP_SET_GUEST_DEBUG	23U
#define	KVM_CAP_REINJECT_CONTROL	24U
#define	KVM_CAP_IRQ_ROUTING	25U
#define	KVM_CAP_IRQ_INJECT_STATUS	26U
#define	KVM_CAP_ASSIGN_DEV_IRQ	29U
#define	KVM_CAP_JOIN_MEMORY_REGIONS_WORKS	30U
#define	KVM_CAP_MCE	31U
#define	KVM_CAP_IRQFD	32U
#define	KVM_CAP_PIT2	33U
#define	KVM_CAP_SET_BOOT_CPU_ID	34U
#define	KVM_CAP_PIT_STATE2	35U
#define	KVM_CAP_IOEVENTFD	36U
#define	KVM_CAP_SET_IDENTITY_MAP_ADDR	37U
#define	KVM_CAP_XEN_HVM	38U
#define	KVM_CAP_ADJUST_CLOCK	39U
#define	KVM_CAP_INTERNAL_ERROR_DATA	40U
#define	KVM_CAP_VCPU_EVENTS	41U
#define	KVM_CAP_S390_PSW	42U
#define	KVM_CAP_PPC_SEGSTATE	43U
#define	KVM_CAP_HYPERV	44U
#define	KVM_CAP_HYPERV_VAPIC	45U
#define	KVM_CAP_HYPERV_SPIN	46U
#define	KVM_CAP_PCI_SEGMENT	47U
#define	KVM_CAP_PPC_PAIRED_SINGLES	48U
#define	KVM_CAP_INTR_SHADOW	49U
#define	KVM_CAP_DEBUGREGS	50U
#define	KVM_CAP_X86_ROBUST_SINGLESTEP	51U
#define	KVM_CAP_PPC_OSI	52U
#define	KVM_CAP_PPC_UNSET_IRQ	53U
#define	KVM_CAP_ENABLE_CAP	54U
#define	KVM_CAP_XSAVE	55U
#define	KVM_CAP_XCRS	56U
#define	KVM_CAP_PPC_GET_PVINFO	57U
#define	KVM_CAP_PPC_IRQ_LEVEL	58U
#define	KVM_CAP_ASYNC_PF	59U
#define	KVM_CAP_TSC_CONTROL	60U
#define	KVM_CAP_GET_TSC_KHZ	61U
#define	KVM_CAP_PPC_BOOKE_SREGS	62U
#define	KVM_CAP_SPAPR_TCE	63U
#define	KVM_CAP_PPC_SMT	64U
#define	KVM_CAP_PPC_RMA	65U
#define	KVM_CAP_MAX_VCPUS	66U
#define	KVM_CAP_PPC_HIOR	67U
#define	KVM_CAP_PPC_PAPR	68U
#define	KVM_CAP_SW_TLB	69U
#define	KVM_CAP_ONE_REG	70U
#define	KVM_CAP_S390_GMAP	71U
#define	KVM_CAP_TSC_DEADLINE_TIMER	72U
#define	KVM_CAP_S390_UCONTROL	73U
#define	KVM_CAP_SYNC_REGS	74U
#define	KVM_CAP_PCI_2_3	75U
#define	KVM_CAP_KVMCLOCK_CTRL	76U
#define	KVM_CAP_SIGNAL_MSI	77U
#define	KVM_CAP_PPC_GET_SMMU_INFO	78U
#define	KVM_CAP_S390_COW	79U
#define	KVM_CAP_PPC_ALLOC_HTAB	80U
#define	KVM_CAP_READONLY_MEM	81U
#define	KVM_CAP_IRQFD_RESAMPLE	82U
#define	KVM_CAP_PPC_BOOKE_WATCHDOG	83U
#define	KVM_CAP_PPC_HTAB_FD	84U
#define	KVM_CAP_S390_CSS_SUPPORT	85U
#define	KVM_CAP_PPC_EPR	86U
#define	KVM_CAP_ARM_PSCI	87U
#define	KVM_CAP_ARM_SET_DEVICE_ADDR	88U
#define	KVM_CAP_DEVICE_CTRL	89U
#define	KVM_CAP_IRQ_MPIC	90U
#define	KVM_CAP_PPC_RTAS	91U
#define	KVM_CAP_IRQ_XICS	92U
#define	KVM_CAP_ARM_EL1_32BIT	93U
#define	KVM_CAP_SPAPR_MULTITCE	94U
#define	KVM_CAP_EXT_EMUL_CPUID	95U
#define	KVM_CAP_HYPERV_TIME	96U
#define	KVM_CAP_IOAPIC_POLARITY_IGNORED	97U
#define	KVM_CAP_ENABLE_CAP_VM	98U
#define	KVM_CAP_S390_IRQCHIP	99U
#define	KVM_CAP_IOEVENTFD_NO_LENGTH	100U
#define	KVM_CAP_VM_ATTRIBUTES	101U
#define	KVM_CAP_ARM_PSCI_0_2	102U
#define	KVM_CAP_PPC_FIXUP_HCALL	103U
#define	KVM_CAP_PPC_ENABLE_HCALL	104U
#define	KVM_CAP_CHECK_EXTENSION_VM	105U
#define	KVM_CAP_S390_USER_SIGP	106U
#define	KVM_CAP_S390_VECTOR_REGISTERS	107U
#define	KVM_CAP_S390_MEM_OP	108U
#define	KVM_CAP_S390_USER_STSI	109U
#define	KVM_CAP_S390_SKEYS	110U
#define	KVM_CAP_MIPS_FPU	111U
#define	KVM_CAP_MIPS_MSA	112U
#define	KVM_CAP_S390_INJECT_IRQ	113U
#define	KVM_CAP_S390_IRQ_STATE	114U
#define	KVM_CAP_PPC_HWRNG	115U
#define	KVM_CAP_DISABLE_QUIRKS	116U
#define	KVM_CAP_X86_SMM	117U
#define	KVM_CAP_MULTI_ADDRESS_SPACE	118U
#define	KVM_CAP_GUEST_DEBUG_HW_BPS	119U
#define	KVM_CAP_GUEST_DEBUG_HW_WPS	120U
#define	KVM_CAP_SPLIT_IRQCHIP	121U
#define	KVM_CAP_IOEVENTFD_ANY_LENGTH	122U
#define	KVM_CAP_HYPERV_SYNIC	123U
#define	KVM_CAP_S390_RI	124U
#define	KVM_CAP_SPAPR_TCE_64	125U
#define	KVM_CAP_ARM_PMU_V3	126U
#define	KVM_CAP_VCPU_ATTRIBUTES	127U
#define	KVM_CAP_MAX_VCPU_ID	128U
#define	KVM_CAP_X2APIC_API	129U
#define	KVM_CAP_S390_USER_INSTR0	130U
#define	KVM_CAP_MSI_DEVID	131U
#define	KVM_CAP_PPC_HTM	132U
#define	KVM_CAP_SPAPR_RESIZE_HPT	133U
#define	KVM_CAP_PPC_MMU_RADIX	134U
#define	KVM_CAP_PPC_MMU_HASH_V3	135U
#define	KVM_CAP_IMMEDIATE_EXIT	136U
#define	KVM_CAP_MIPS_VZ	137U
#define	KVM_CAP_MIPS_TE	138U
#define	KVM_CAP_MIPS_64BIT	139U
#define	KVM_CAP_S390_GS	140U
#define	KVM_CAP_S390_AIS	141U
#define	KVM_CAP_SPAPR_TCE_VFIO	142U
#define	KVM_CAP_X86_DISABLE_EXITS	143U
#define	KVM_CAP_ARM_USER_IRQ	144U
#define	KVM_CAP_S390_CMMA_MIGRATION	145U
#define	KVM_CAP_PPC_FWNMI	146U
#define	KVM_CAP_PPC_SMT_POSSIBLE	147U
#define	KVM_CAP_HYPERV_SYNIC2	148U
#define	KVM_CAP_HYPERV_VP_INDEX	149U
#define	KVM_CAP_S390_AIS_MIGRATION	150U
#define	KVM_CAP_PPC_GET_CPU_CHAR	151U
#define	KVM_CAP_S390_BPB	152U
#define	KVM_CAP_GET_MSR_FEATURES	153U
#define	KVM_CAP_HYPERV_EVENTFD	154U
#define	KVM_CAP_HYPERV_TLBFLUSH	155U
#define	KVM_CAP_S390_HPAGE_1M	156U
#define	KVM_CAP_NESTED_STATE	157U
#define	KVM_CAP_ARM_INJECT_SERROR_ESR	158U
#define	KVM_CAP_MSR_PLATFORM_INFO	159U
#define	KVM_CAP_PPC_NESTED_HV	160U
#define	KVM_CAP_HYPERV_SEND_IPI	161U
#define	KVM_CAP_COALESCED_PIO	162U
#define	KVM_CAP_HYPERV_ENLIGHTENED_VMCS	163U
#define	KVM_CAP_EXCEPTION_PAYLOAD	164U
#define	KVM_CAP_ARM_VM_IPA_SIZE	165U
#define	KVM_CAP_MANUAL_DIRTY_LOG_PROTECT	166U
#define	KVM_CAP_HYPERV_CPUID	167U
#define	KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2	168U
#define	KVM_CAP_PPC_IRQ_XIVE	169U
#define	KVM_CAP_ARM_SVE	170U
#define	KVM_CAP_ARM_PTRAUTH_ADDRESS	171U
#define	KVM_CAP_ARM_PTRAUTH_GENERIC	172U
#define	KVM_CAP_PMU_EVENT_FILTER	173U
#define	KVM_CAP_ARM_IRQ_LINE_LAYOUT_2	174U
#define	KVM_CAP_HYPERV_DIRECT_TLBFLUSH	175U
#define	KVM_CAP_PPC_GUEST_DEBUG_SSTEP	176U
#define	KVM_CAP_ARM_NISV_TO_USER	177U
#define	KVM_CAP_ARM_INJECT_EXT_DABT	178U
#define	KVM_CAP_S390_VCPU_RESETS	179U
#define	KVM_CAP_S390_PROTECTED	180U
#define	KVM_CAP_PPC_SECURE_GUEST	181U
#define	KVM_CAP_HALT_POLL	182U
#define	KVM_CAP_ASYNC_PF_INT	183U
#define	KVM_CAP_LAST_CPU	184U
#define	KVM_CAP_SMALLER_MAXPHYADDR	185U
#define	KVM_CAP_S390_DIAG318	186U
#define	KVM_CAP_STEAL_TIME	187U
#define	KVM_CAP_X86_USER_SPACE_MSR	188U
#define	KVM_CAP_X86_MSR_FILTER	189U
#define	KVM_CAP_ENFORCE_PV_FEATURE_CPUID	190U
#define	KVM_CAP_SYS_HYPERV_CPUID	191U
#define	KVM_CAP_DIRTY_LOG_RING	192U
#define	KVM_CAP_X86_BUS_LOCK_EXIT	193U
#define	KVM_CAP_PPC_DAWR1	194U
#define	KVM_CAP_SET_GUEST_DEBUG2	195U
#define	KVM_CAP_SGX_ATTRIBUTE	196U
#define	KVM_CAP_VM_COPY_ENC_CONTEXT_FROM	197U
#define	KVM_CAP_PTP_KVM	198U
#define	KVM_CAP_HYPERV_ENFORCE_CPUID	199U
#define	KVM_CAP_SREGS2	200U
#define	KVM_CAP_EXIT_HYPERCALL	201U
#define	KVM_CAP_PPC_RPT_INVALIDATE	202U
#define	KVM_CAP_BINARY_STATS_FD	203U
#define	KVM_CAP_EXIT_ON_EMULATION_FAILURE	204U
#define	KVM_CAP_ARM_MTE	205U
#define	KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM	206U
#define	KVM_CAP_VM_GPA_BITS	207U
#define	KVM_CAP_XSAVE2	208U
#define	KVM_CAP_SYS_ATTRIBUTES	209U
#define	KVM_CAP_PPC_AIL_MODE_3	210U
#define	KVM_CAP_S390_MEM_OP_EXTENSION	211U
#define	KVM_CAP_PMU_CAPABILITY	212U
#define	KVM_CAP_DISABLE_QUIRKS2	213U
#define	KVM_CAP_VM_TSC_CONTROL	214U
#define	KVM_CAP_SYSTEM_EVENT_DATA	215U
#define	KVM_CAP_ARM_SYSTEM_SUSPEND	216U
#define	KVM_CAP_S390_PROTECTED_DUMP	217U
#define	KVM_CAP_X86_TRIPLE_FAULT_EVENT	218U
#define	KVM_CAP_X86_NOTIFY_VMEXIT	219U
#define	KVM_CAP_VM_DISABLE_NX_HUGE_PAGES	220U
#define	KVM_CAP_S390_ZPCI_OP	221U
#define	KVM_CAP_S390_CPU_TOPOLOGY	222U
#define	KVM_CAP_DIRTY_LOG_RING_ACQ_REL	223U
#define	KVM_CLOCK_TSC_STABLE	2U
#define	KVM_CLOCK_REALTIME	4U
#define	KVM_CLOCK_HOST_TSC	8U
#define	KVM_CREATE_DEVICE_TEST	1U
#define	KVM_SET_MEMORY_REGION	WATERBEAR_COMMAND(1, 0x40)
#define	KVM_CREATE_VCPU	WATERBEAR_COMMAND(0, 0x41)
#define	KVM_GET_DIRTY_LOG	WATERBEAR_COMMAND(1, 0x42)
#define	KVM_SET_MEMORY_ALIAS	WATERBEAR_COMMAND(1, 0x43)
#define	KVM_SET_NR_MMU_PAGES	WATERBEAR_COMMAND(0, 0x44)
#define	KVM_GET_NR_MMU_PAGES	WATERBEAR_COMMAND(0, 0x45)
#define	KVM_SET_USER_MEMORY_REGION	WATERBEAR_COMMAND(1, 0x46)
#define	KVM_SET_TSS_ADDR	WATERBEAR_COMMAND(0, 0x47)
#define	KVM_SET_IDENTITY_MAP_ADDR	WATERBEAR_COMMAND(1, 0x48)
#define	KVM_CREATE_IRQCHIP	WATERBEAR_COMMAND(0, 0x60)
#define	KVM_GET_IRQCHIP	WATERBEAR_COMMAND(3, 0x62)
#define	KVM_SET_IRQCHIP	WATERBEAR_COMMAND(2, 0x63)
#define	KVM_CREATE_PIT	WATERBEAR_COMMAND(0, 0x64)
#define	KVM_GET_PIT	WATERBEAR_COMMAND(3, 0x65)
#define	KVM_SET_PIT	WATERBEAR_COMMAND(2, 0x66)
#define	KVM_REGISTER_COALESCED_MMIO	WATERBEAR_COMMAND(1, 0x67)
#define	KVM_UNREGISTER_COALESCED_MMIO	WATERBEAR_COMMAND(1, 0x68)
#define	KVM_SET_GSI_ROUTING	WATERBEAR_COMMAND(1, 0x6a)
#define	KVM_CREATE_PIT2	WATERBEAR_COMMAND(1, 0x77)
#define	KVM_SET_BOOT_CPU_ID	WATERBEAR_COMMAND(0, 0x78)
#define	KVM_IOEVENTFD	WATERBEAR_COMMAND(1, 0x79)
#define	KVM_SET_CLOCK	WATERBEAR_COMMAND(1, 0x7b)
#define	KVM_GET_CLOCK	WATERBEAR_COMMAND(2, 0x7c)
#define	KVM_GET_PIT2	WATERBEAR_COMMAND(6, 0x9f)
#define	KVM_SET_PIT2	WATERBEAR_COMMAND(5, 0xa0)
#define	KVM_SET_TSC_KHZ	WATERBEAR_COMMAND(0, 0xa2)
#define	KVM_GET_TSC_KHZ	WATERBEAR_COMMAND(0, 0xa3)
#define	KVM_SET_PMU_EVENT_FILTER	WATERBEAR_COMMAND(1, 0xb2)
#define	KVM_CREATE_DEVICE	WATERBEAR_COMMAND(3, 0xe0)
#define	KVM_SET_DEVICE_ATTR	WATERBEAR_COMMAND(1, 0xe1)
#define	KVM_GET_DEVICE_ATTR	WATERBEAR_COMMAND(1, 0xe2)
#define	KVM_RUN	WATERBEAR_COMMAND(0, 0x80)
#define	KVM_GET_REGS	WATERBEAR_COMMAND(2, 0x81)
#define	KVM_SET_REGS	WATERBEAR_COMMAND(1, 0x82)
#define	KVM_GET_SREGS	WATERBEAR_COMMAND(2, 0x83)
#define	KVM_SET_SREGS	WATERBEAR_COMMAND(1, 0x84)
#define	KVM_INTERRUPT	WATERBEAR_COMMAND(1, 0x86)
#define	KVM_GET_MSRS	WATERBEAR_COMMAND(3, 0x88)
#define	KVM_SET_MSRS	WATERBEAR_COMMAND(1, 0x89)
#define	KVM_SET_CPUID	WATERBEAR_COMMAND(1, 0x8a)
#define	KVM_SET_SIGNAL_MASK	WATERBEAR_COMMAND(1, 0x8b)
#define	KVM_GET_FPU	WATERBEAR_COMMAND(2, 0x8c)
#define	KVM_SET_FPU	WATERBEAR_COMMAND(1, 0x8d)
#define	KVM_GET_LAPIC	WATERBEAR_COMMAND(2, 0x8e)
#define	KVM_SET_LAPIC	WATERBEAR_COMMAND(1, 0x8f)
#define	KVM_SET_CPUID2	WATERBEAR_COMMAND(1, 0x90)
#define	KVM_GET_CPUID2	WATERBEAR_COMMAND(3, 0x91)
#define	KVM_SET_VAPIC_ADDR	WATERBEAR_COMMAND(1, 0x93)
#define	KVM_GET_MP_STATE	WATERBEAR_COMMAND(2, 0x98)
#define	KVM_SET_MP_STATE	WATERBEAR_COMMAND(1, 0x99)
#define	KVM_NMI	WATERBEAR_COMMAND(0, 0x9a)
#define	KVM_SET_GUEST_DEBUG	WATERBEAR_COMMAND(1, 0x9b)
#define	KVM_X86_SETUP_MCE	WATERBEAR_COMMAND(1, 0x9c)
#define	KVM_X86_GET_MCE_CAP_SUPPORTED	WATERBEAR_COMMAND(2, 0x9d)
#define	KVM_X86_SET_MCE	WATERBEAR_COMMAND(1, 0x9e)
#define	KVM_GET_VCPU_EVENTS	WATERBEAR_COMMAND(2, 0x9f)
#define	KVM_SET_VCPU_EVENTS	WATERBEAR_COMMAND(1, 0xa0)
#define	KVM_GET_DEBUGREGS	WATERBEAR_COMMAND(2, 0xa1)
#define	KVM_SET_DEBUGREGS	WATERBEAR_COMMAND(1, 0xa2)
#define	KVM_ENABLE_CAP	WATERBEAR_COMMAND(1, 0xa3)
#define	KVM_GET_XSAVE	WATERBEAR_COMMAND(2, 0xa4)
#define	KVM_SET_XSAVE	WATERBEAR_COMMAND(1, 0xa5)
#define	KVM_GET_XCRS	WATERBEAR_COMMAND(2, 0xa6)
#define	KVM_SET_XCRS	WATERBEAR_COMMAND(1, 0xa7)
#define	KVM_GET_ONE_REG	WATERBEAR_COMMAND(1, 0xab)
#define	KVM_SET_ONE_REG	WATERBEAR_COMMAND(1, 0xac)
#define	KVM_KVMCLOCK_CTRL	WATERBEAR_COMMAND(0, 0xad)
#define	KVM_GET_REG_LIST	WATERBEAR_COMMAND(3, 0xb0)
#define	KVM_GET_NESTED_STATE	WATERBEAR_COMMAND(3, 0xbe)
#define	KVM_SET_NESTED_STATE	WATERBEAR_COMMAND(1, 0xbf)
#define	KVM_CLEAR_DIRTY_LOG	WATERBEAR_COMMAND(3, 0xc0)
#define	KVM_GET_SUPPORTED_HV_CPUID	WATERBEAR_COMMAND(3, 0xc1)
#define	KVM_GET_SREGS2	WATERBEAR_COMMAND(2, 0xcc)
#define	KVM_SET_SREGS2	WATERBEAR_COMMAND(1, 0xcd)
#define	KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE	1U
#define	KVM_DIRTY_LOG_INITIALLY_SET	2U
#define	KVM_STATS_TYPE_SHIFT	0U
#define	KVM_STATS_TYPE_MASK	15U
#define	KVM_STATS_TYPE_CUMULATIVE	0U
#define	KVM_STATS_TYPE_INSTANT	1U
#define	KVM_STATS_TYPE_PEAK	2U
#define	KVM_STATS_TYPE_LINEAR_HIST	3U
#define	KVM_STATS_TYPE_LOG_HIST	4U
#define	KVM_STATS_TYPE_MAX	4U
#define	KVM_STATS_UNIT_SHIFT	4U
#define	KVM_STATS_UNIT_MASK	240U
#define	KVM_STATS_UNIT_NONE	0U
#define	KVM_STATS_UNIT_BYTES	16U
#define	KVM_STATS_UNIT_SECONDS	32U
#define	KVM_STATS_UNIT_CYCLES	48U
#define	KVM_STATS_UNIT_BOOLEAN	64U
#define	KVM_STATS_UNIT_MAX	64U
#define	KVM_STATS_BASE_SHIFT	8U
#define	KVM_STATS_BASE_MASK	3840U
#define	KVM_STATS_BASE_POW10	0U
#define	KVM_STATS_BASE_POW2	256U
#define	KVM_STATS_BASE_MAX	256U
#define	KVM_GET_STATS_FD	WATERBEAR_COMMAND(0, 0xce)
#define	KVM_GET_XSAVE2	WATERBEAR_COMMAND(2, 0xcf)

struct kvm_regs {
	__u64 rax;
	__u64 rbx;
	__u64 rcx;
	__u64 rdx;
	__u64 rsi;
	__u64 rdi;
	__u64 rsp;
	__u64 rbp;
	__u64 r8;
	__u64 r9;
	__u64 r10;
	__u64 r11;
	__u64 r12;
	__u64 r13;
	__u64 r14;
	__u64 r15;
	__u64 rip;
	__u64 rflags;
};

struct kvm_segment {
	__u64 base;
	__u32 limit;
	__u16 selector;
	__u8 type;
	__u8 present;
	__u8 dpl;
	__u8 db;
	__u8 s;
	__u8 l;
	__u8 g;
	__u8 avl;
	__u8 unusable;
	__u8 padding;
};

struct kvm_dtable {
	__u64 base;
	__u16 limit;
	__u16 padding[3];
};

struct kvm_sregs {
	struct kvm_segment cs;
	struct kvm_segment ds;
	struct kvm_segment es;
	struct kvm_segment fs;
	struct kvm_segment gs;
	struct kvm_segment ss;
	struct kvm_segment tr;
	struct kvm_segment ldt;
	struct kvm_dtable gdt;
	struct kvm_dtable idt;
	__u64 cr0;
	__u64 cr2;
	__u64 cr3;
	__u64 cr4;
	__u64 cr8;
	__u64 efer;
	__u64 apic_base;
	__u64 interrupt_bitmap[4];
};

struct kvm_sregs2 {
	struct kvm_segment cs;
	struct kvm_segment ds;
	struct kvm_segment es;
	struct kvm_segment fs;
	struct kvm_segment gs;
	struct kvm_segment ss;
	struct kvm_segment tr;
	struct kvm_segment ldt;
	struct kvm_dtable gdt;
	struct kvm_dtable idt;
	__u64 cr0;
	__u64 cr2;
	__u64 cr3;
	__u64 cr4;
	__u64 cr8;
	__u64 efer;
	__u64 apic_base;
	__u64 flags;
	__u64 pdptrs[4];
};

struct kvm_fpu {
	__u8 fpr[8][16];
	__u16 fcw;
	__u16 fsw;
	__u8 ftwx;
	__u8 pad1;
	__u16 last_opcode;
	__u64 last_ip;
	__u64 last_dp;
	__u8 xmm[16][16];
	__u32 mxcsr;
	__u32 pad2;
};

struct kvm_msr_entry {
	__u32 index;
	__u32 reserved;
	__u64 data;
};

struct kvm_cpuid_entry2 {
	__u32 function;
	__u32 index;
	__u32 flags;
	__u32 eax;
	__u32 ebx;
	__u32 ecx;
	__u32 edx;
	__u32 padding[3];
};

struct kvm_debug_exit_arch {
	__u32 exception;
	__u32 pad;
	__u64 pc;
	__u64 dr6;
	__u64 dr7;
};

struct kvm_vcpu_events {
	struct {
		__u8 injected;
		__u8 nr;
		__u8 has_error_code;
		__u8 pending;
		__u32 error_code;
	} exception;
	struct {
		__u8 injected;
		__u8 nr;
		__u8 soft;
		__u8 shadow;
	} interrupt;
	struct {
		__u8 injected;
		__u8 pending;
		__u8 masked;
		__u8 pad;
	} nmi;
	__u32 sipi_vector;
	__u32 flags;
	struct {
		__u8 smm;
		__u8 pending;
		__u8 smm_inside_nmi;
		__u8 latched_init;
	} smi;
	struct {
		__u8 pending;
	} triple_fault;
	__u8 reserved[26];
	__u8 exception_has_payload;
	__u64 exception_payload;
};

struct kvm_debugregs {
	__u64 db[4];
	__u64 dr6;
	__u64 dr7;
	__u64 flags;
	__u64 reserved[9];
};

struct kvm_xcr {
	__u32 xcr;
	__u32 reserved;
	__u64 value;
};

struct kvm_xcrs {
	__u32 nr_xcrs;
	__u32 flags;
	struct kvm_xcr xcrs[16];
	__u64 padding[16];
};

struct kvm_sync_regs {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
};

struct kvm_userspace_memory_region {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
};

struct kvm_hyperv_exit {
	__u32 type;
	__u32 pad1;
	union {
		struct {
			__u32 msr;
			__u32 pad2;
			__u64 control;
			__u64 evt_page;
			__u64 msg_page;
		} synic;
		struct {
			__u64 input;
			__u64 result;
			__u64 params[2];
		} hcall;
		struct {
			__u32 msr;
			__u32 pad2;
			__u64 control;
			__u64 status;
			__u64 send_page;
			__u64 recv_page;
			__u64 pending_page;
		} syndbg;
	} u;
};

struct kvm_xen_exit {
	__u32 type;
	union {
		struct {
			__u32 longmode;
			__u32 cpl;
			__u64 input;
			__u64 result;
			__u64 params[6];
		} hcall;
	} u;
};

struct kvm_run {
	__u8 request_interrupt_window;
	__u8 immediate_exit;
	__u8 padding1[6];
	__u32 exit_reason;
	__u8 ready_for_interrupt_injection;
	__u8 if_flag;
	__u16 flags;
	__u64 cr8;
	__u64 apic_base;
	union {
		struct {
			__u64 hardware_exit_reason;
		} hw;
		struct {
			__u64 hardware_entry_failure_reason;
			__u32 cpu;
		} fail_entry;
		struct {
			__u32 exception;
			__u32 error_code;
		} ex;
		struct {
			__u8 direction;
			__u8 size;
			__u16 port;
			__u32 count;
			__u64 data_offset;
		} io;
		struct {
			struct kvm_debug_exit_arch arch;
		} debug;
		struct {
			__u64 phys_addr;
			__u8 data[8];
			__u32 len;
			__u8 is_write;
		} mmio;
		struct {
			__u64 nr;
			__u64 args[6];
			__u64 ret;
			__u32 longmode;
			__u32 pad;
		} hypercall;
		struct {
			__u64 rip;
			__u32 is_write;
			__u32 pad;
		} tpr_access;
		struct {
			__u8 icptcode;
			__u16 ipa;
			__u32 ipb;
		} s390_sieic;
		__u64 s390_reset_flags;
		struct {
			__u64 trans_exc_code;
			__u32 pgm_code;
		} s390_ucontrol;
		struct {
			__u32 dcrn;
			__u32 data;
			__u8 is_write;
		} dcr;
		struct {
			__u32 suberror;
			__u32 ndata;
			__u64 data[16];
		} internal;
		struct {
			__u32 suberror;
			__u32 ndata;
			__u64 flags;
			union {
				struct {
					__u8 insn_size;
					__u8 insn_bytes[15];
				};
			};
		} emulation_failure;
		struct {
			__u64 gprs[32];
		} osi;
		struct {
			__u64 nr;
			__u64 ret;
			__u64 args[9];
		} papr_hcall;
		struct {
			__u16 subchannel_id;
			__u16 subchannel_nr;
			__u32 io_int_parm;
			__u32 io_int_word;
			__u32 ipb;
			__u8 dequeued;
		} s390_tsch;
		struct {
			__u32 epr;
		} epr;
		struct {
			__u32 type;
			__u32 ndata;
			union {
				__u64 flags;
				__u64 data[16];
			};
		} system_event;
		struct {
			__u64 addr;
			__u8 ar;
			__u8 reserved;
			__u8 fc;
			__u8 sel1;
			__u16 sel2;
		} s390_stsi;
		struct {
			__u8 vector;
		} eoi;
		struct kvm_hyperv_exit hyperv;
		struct {
			__u64 esr_iss;
			__u64 fault_ipa;
		} arm_nisv;
		struct {
			__u8 error;
			__u8 pad[7];
			__u32 reason;
			__u32 index;
			__u64 data;
		} msr;
		struct kvm_xen_exit xen;
		struct {
			unsigned long extension_id;
			unsigned long function_id;
			unsigned long args[6];
			unsigned long ret[2];
		} riscv_sbi;
		struct {
			unsigned long csr_num;
			unsigned long new_value;
			unsigned long write_mask;
			unsigned long ret_value;
		} riscv_csr;
		struct {
			__u32 flags;
		} notify;
		char padding[256];
	};
	__u64 kvm_valid_regs;
	__u64 kvm_dirty_regs;
	union {
		struct kvm_sync_regs regs;
		char padding[2048];
	} s;
};

struct kvm_coalesced_mmio_zone {
	__u64 addr;
	__u32 size;
	union {
		__u32 pad;
		__u32 pio;
	};
};

struct kvm_coalesced_mmio {
	__u64 phys_addr;
	__u32 len;
	union {
		__u32 pad;
		__u32 pio;
	};
	__u8 data[8];
};

struct kvm_interrupt {
	__u32 irq;
};

struct kvm_dirty_log {
	__u32 slot;
	__u32 padding1;
	union {
		void * dirty_bitmap;
		__u64 padding2;
	};
};

struct kvm_clear_dirty_log {
	__u32 slot;
	__u32 num_pages;
	__u64 first_page;
	union {
		void * dirty_bitmap;
		__u64 padding2;
	};
};

struct kvm_mp_state {
	__u32 mp_state;
};

struct kvm_ioeventfd {
	__u64 datamatch;
	__u64 addr;
	__u32 len;
	__s32 fd;
	__u32 flags;
	__u8 pad[36];
};

struct kvm_enable_cap {
	__u32 cap;
	__u32 flags;
	__u64 args[4];
	__u8 pad[64];
};

struct kvm_clock_data {
	__u64 clock;
	__u32 flags;
	__u32 pad0;
	__u64 realtime;
	__u64 host_tsc;
	__u32 pad[4];
};

struct kvm_stats_header {
	__u32 flags;
	__u32 name_size;
	__u32 num_desc;
	__u32 id_offset;
	__u32 desc_offset;
	__u32 data_offset;
};

struct kvm_msrs {
	__u32 nmsrs;
	__u32 pad;
	struct kvm_msr_entry entries[];
};

struct kvm_msr_list {
	__u32 nmsrs;
	__u32 indices[];
};

struct kvm_cpuid2 {
	__u32 nent;
	__u32 padding;
	struct kvm_cpuid_entry2 entries[];
};

struct kvm_signal_mask {
	__u32 len;
	__u8 sigset[];
};

struct kvm_coalesced_mmio_ring {
	__u32 first, last;
	struct kvm_coalesced_mmio coalesced_mmio[];
};

#endif
