//! The commands, as FreeBSD numbers them.
//!
//! FreeBSD copies an argument itself, by the size and the direction that are in
//! the command, and refuses a command without a direction. Arrays without a
//! fixed length cannot pass that way, so each command says that it has no
//! argument that the kernel should copy, and hands a user pointer over.
//! `include/waterbear/kvm.h` has the same numbers.
use waterbear_core::abi::kvm;

/// What FreeBSD calls `IOC_VOID`. Source: ioctl(2), `sys/ioccom.h`.
const VOID: u32 = 0x2000_0000;
/// The group of commands whose number in the public header has no direction.
/// The next ones are for those that copy in, out, and both.
const GROUP: u32 = 0xae;

/// Those of a number and direction that another command has as well.
const SECOND: [u32; 2] = [kvm::KVM_GET_PIT2, kvm::KVM_SET_PIT2];
/// How far from the others' groups theirs are.
const SECOND_GROUP: u32 = 4;

/// Every command of the interface.
const COMMANDS: &[u32] = &[
    kvm::KVM_GET_API_VERSION,
    kvm::KVM_CREATE_VM,
    kvm::KVM_GET_MSR_INDEX_LIST,
    kvm::KVM_CHECK_EXTENSION,
    kvm::KVM_GET_VCPU_MMAP_SIZE,
    kvm::KVM_GET_SUPPORTED_CPUID,
    kvm::KVM_GET_EMULATED_CPUID,
    kvm::KVM_GET_MSR_FEATURE_INDEX_LIST,
    kvm::KVM_SET_MEMORY_REGION,
    kvm::KVM_CREATE_VCPU,
    kvm::KVM_GET_DIRTY_LOG,
    kvm::KVM_SET_MEMORY_ALIAS,
    kvm::KVM_SET_NR_MMU_PAGES,
    kvm::KVM_GET_NR_MMU_PAGES,
    kvm::KVM_SET_USER_MEMORY_REGION,
    kvm::KVM_SET_TSS_ADDR,
    kvm::KVM_SET_IDENTITY_MAP_ADDR,
    kvm::KVM_CREATE_IRQCHIP,
    kvm::KVM_GET_IRQCHIP,
    kvm::KVM_SET_IRQCHIP,
    kvm::KVM_CREATE_PIT,
    kvm::KVM_GET_PIT,
    kvm::KVM_SET_PIT,
    kvm::KVM_REGISTER_COALESCED_MMIO,
    kvm::KVM_UNREGISTER_COALESCED_MMIO,
    kvm::KVM_SET_GSI_ROUTING,
    kvm::KVM_CREATE_PIT2,
    kvm::KVM_SET_BOOT_CPU_ID,
    kvm::KVM_IOEVENTFD,
    kvm::KVM_SET_CLOCK,
    kvm::KVM_GET_CLOCK,
    kvm::KVM_GET_PIT2,
    kvm::KVM_SET_PIT2,
    kvm::KVM_SET_TSC_KHZ,
    kvm::KVM_GET_TSC_KHZ,
    kvm::KVM_SET_PMU_EVENT_FILTER,
    kvm::KVM_CREATE_DEVICE,
    kvm::KVM_SET_DEVICE_ATTR,
    kvm::KVM_GET_DEVICE_ATTR,
    kvm::KVM_RUN,
    kvm::KVM_GET_REGS,
    kvm::KVM_SET_REGS,
    kvm::KVM_GET_SREGS,
    kvm::KVM_SET_SREGS,
    kvm::KVM_INTERRUPT,
    kvm::KVM_GET_MSRS,
    kvm::KVM_SET_MSRS,
    kvm::KVM_SET_CPUID,
    kvm::KVM_SET_SIGNAL_MASK,
    kvm::KVM_GET_FPU,
    kvm::KVM_SET_FPU,
    kvm::KVM_GET_LAPIC,
    kvm::KVM_SET_LAPIC,
    kvm::KVM_SET_CPUID2,
    kvm::KVM_GET_CPUID2,
    kvm::KVM_SET_VAPIC_ADDR,
    kvm::KVM_GET_MP_STATE,
    kvm::KVM_SET_MP_STATE,
    kvm::KVM_NMI,
    kvm::KVM_SET_GUEST_DEBUG,
    kvm::KVM_X86_SETUP_MCE,
    kvm::KVM_X86_GET_MCE_CAP_SUPPORTED,
    kvm::KVM_X86_SET_MCE,
    kvm::KVM_GET_VCPU_EVENTS,
    kvm::KVM_SET_VCPU_EVENTS,
    kvm::KVM_GET_DEBUGREGS,
    kvm::KVM_SET_DEBUGREGS,
    kvm::KVM_ENABLE_CAP,
    kvm::KVM_GET_XSAVE,
    kvm::KVM_SET_XSAVE,
    kvm::KVM_GET_XCRS,
    kvm::KVM_SET_XCRS,
    kvm::KVM_GET_ONE_REG,
    kvm::KVM_SET_ONE_REG,
    kvm::KVM_KVMCLOCK_CTRL,
    kvm::KVM_GET_REG_LIST,
    kvm::KVM_GET_NESTED_STATE,
    kvm::KVM_SET_NESTED_STATE,
    kvm::KVM_CLEAR_DIRTY_LOG,
    kvm::KVM_GET_SUPPORTED_HV_CPUID,
    kvm::KVM_GET_SREGS2,
    kvm::KVM_SET_SREGS2,
    kvm::KVM_GET_STATS_FD,
    kvm::KVM_GET_XSAVE2,
];

/// The number that FreeBSD has for a command of the public header.
pub fn encoded(command: u32) -> u32 {
    let second = if SECOND.contains(&command) {
        SECOND_GROUP
    } else {
        0
    };
    let group = GROUP + (command >> 30) + second;
    VOID | group << 8 | (command & 0xff)
}

/// The command of the public header for what a FreeBSD process asks for, or 0,
/// which is none.
pub fn decoded(command: u64) -> u32 {
    let same = |known: &&u32| u64::from(encoded(**known)) == command;
    COMMANDS.iter().find(same).copied().unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The numbers of the commands in the generated file.
    fn known() -> Vec<u32> {
        let text = include_str!("../../../core/src/abi/kvm.rs");
        let constant = |line: &str| {
            let (_, value) = line.strip_prefix("pub const KVM_")?.split_once(" = ")?;
            value.trim_end_matches(';').parse::<u32>().ok()
        };
        let is_command = |value: &u32| value >> 8 & 0xff == GROUP;
        text.lines()
            .filter_map(constant)
            .filter(is_command)
            .collect()
    }

    #[test]
    fn every_command_of_the_interface_is_listed() {
        let known = known();
        assert!(known.len() > 50);
        for command in known {
            assert!(COMMANDS.contains(&command), "{command:#x} is missing");
        }
    }

    #[test]
    fn no_two_commands_have_one_number() {
        for &command in COMMANDS {
            assert_eq!(decoded(encoded(command).into()), command, "{command:#x}");
        }
    }

    #[test]
    fn the_numbers_of_the_public_header_are_refused() {
        for &command in COMMANDS {
            assert_eq!(decoded(command.into()), 0);
        }
    }
}
