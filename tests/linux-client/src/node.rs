//! The device node.
use std::fs::File;

use waterbear_core::abi::kvm::*;
use waterbear_core::abi::prefault::KVM_CAP_PRE_FAULT_MEMORY;

use crate::Outcome;
use crate::sys::{ioctl, ioctl_long};

/// Where the node is.
pub const NODE: &str = "/dev/waterbear";

/// Opens the node.
pub fn open() -> Result<File, String> {
    open_at(NODE)
}

/// Opens a node.
pub fn open_at(path: &str) -> Result<File, String> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| format!("{path}: {error}"))
}

/// Fails unless both are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, wanted: T) -> Outcome {
    if seen == wanted {
        Ok(())
    } else {
        Err(format!("{what}: {seen:?} instead of {wanted:?}"))
    }
}

pub fn the_node_speaks_version_12() -> Outcome {
    let node = open()?;
    same("version", ioctl(&node, KVM_GET_API_VERSION, 0), Ok(12))?;
    let wrong = ioctl(&node, KVM_GET_API_VERSION, 1);
    same("version with an argument", wrong, Err(libc::EINVAL))?;
    let size = ioctl(&node, KVM_GET_VCPU_MMAP_SIZE, 0);
    same("size of a vCPU's mapping", size, Ok(3 * 4096))?;
    // Some callers extend the sign of a command.
    let extended = 0xffff_ffff_0000_0000 | u64::from(KVM_GET_API_VERSION);
    same("with a sign", ioctl_long(&node, extended, 0), Ok(12))
}

pub fn what_the_node_does_not_know_is_enotty() -> Outcome {
    let node = open()?;
    for command in [
        0,
        1,
        0xae00 | 0xff,
        KVM_SET_USER_MEMORY_REGION,
        KVM_RUN,
        u32::MAX,
    ] {
        let answer = ioctl(&node, command, u64::MAX);
        same(&format!("{command:#x}"), answer, Err(libc::ENOTTY))?;
    }
    Ok(())
}

pub fn capabilities_are_advertised_that_work() -> Outcome {
    let node = open()?;
    for (capability, value) in [
        (KVM_CAP_USER_MEMORY, 1),
        (KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1),
        (KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1),
        (KVM_CAP_SYNC_MMU, 1),
        (KVM_CAP_READONLY_MEM, 1),
        (KVM_CAP_NR_MEMSLOTS, 32764),
        (KVM_CAP_SET_TSS_ADDR, 1),
        (KVM_CAP_EXT_CPUID, 1),
        (KVM_CAP_MP_STATE, 1),
        (KVM_CAP_IRQ_ROUTING, 4096),
        (KVM_CAP_IMMEDIATE_EXIT, 1),
        (KVM_CAP_MCE, 32),
        (KVM_CAP_SREGS2, 1),
        (KVM_CAP_XSAVE2, 4096),
        (KVM_CAP_GET_TSC_KHZ, 1),
        // They would say that the frequency can be chosen.
        (KVM_CAP_TSC_CONTROL, 0),
        (KVM_CAP_VM_TSC_CONTROL, 0),
        (KVM_CAP_GET_MSR_FEATURES, 1),
        (KVM_CAP_EXT_EMUL_CPUID, 1),
        (KVM_CAP_PRE_FAULT_MEMORY, 1),
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1),
        (KVM_CAP_COALESCED_MMIO, 2),
        (KVM_CAP_COALESCED_PIO, 1),
        (KVM_CAP_BINARY_STATS_FD, 1),
        (KVM_CAP_CLOCKSOURCE, 1),
        (KVM_CAP_KVMCLOCK_CTRL, 1),
        (KVM_CAP_IOEVENTFD, 1),
        (KVM_CAP_IOEVENTFD_NO_LENGTH, 1),
        (KVM_CAP_IOEVENTFD_ANY_LENGTH, 1),
        (KVM_CAP_IRQCHIP, 0),
        (KVM_CAP_NESTED_STATE, 0),
        (100_000, 0),
    ] {
        let answer = ioctl(&node, KVM_CHECK_EXTENSION, capability.into());
        same(&format!("capability {capability}"), answer, Ok(value))?;
    }
    let most = ioctl(&node, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS.into());
    for capability in [KVM_CAP_NR_VCPUS, KVM_CAP_MAX_VCPU_ID] {
        let answer = ioctl(&node, KVM_CHECK_EXTENSION, capability.into());
        same("how many vCPUs", answer, most)?;
    }
    same("more than one", most > Ok(1), true)?;
    // Not capability 3 with something in front.
    let far = ioctl(&node, KVM_CHECK_EXTENSION, 1 << 32 | 3);
    same("a capability of more than 32 bits", far, Ok(0))
}
