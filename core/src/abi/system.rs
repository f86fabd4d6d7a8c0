//! Commands of the device node.
use waterbear_hal::Hal;

use super::{Answer, Caller, Failure, Reply, capability, cpuid, kvm, msrs, no_argument};
use crate::Error;
use crate::run::cpuid::HostCpuid;
use crate::run::machine_check;

/// The size of what a vCPU's descriptor maps, in bytes: the two pages of its
/// [`RunArea`](super::RunArea), and the page of the VM's in which
/// [coalesced writes](crate::bus) wait.
pub const VCPU_MAP_SIZE: u32 = (kvm::KVM_COALESCED_MMIO_PAGE_OFFSET + 1) * 4096;

/// Carries out a command; `host` is the machine's CPUID. May sleep.
///
/// # Errors
///
/// [`Failure::Unknown`]; [`Error::Invalid`] for an argument where there must
/// be none, or an unknown type of VM; [`Failure::TooBig`]; [`Error::Fault`].
pub fn command<H: Hal>(
    hal: &H,
    host: &HostCpuid<'_>,
    caller: &impl Caller,
    command: u32,
    argument: u64,
) -> Answer {
    match command {
        kvm::KVM_GET_SUPPORTED_CPUID => cpuid::supported(hal, host, caller, argument),
        kvm::KVM_GET_MSR_INDEX_LIST => msrs::list(caller, argument),
        kvm::KVM_GET_MSR_FEATURE_INDEX_LIST => msrs::feature_list(caller, argument),
        kvm::KVM_GET_MSRS => msrs::get_features(caller, argument),
        kvm::KVM_GET_EMULATED_CPUID => cpuid::emulated(caller, argument),
        kvm::KVM_X86_GET_MCE_CAP_SUPPORTED => {
            caller.copy_out(argument, &machine_check::OFFERED.to_le_bytes())?;
            Ok(Reply::Value(0))
        }
        kvm::KVM_GET_API_VERSION => {
            no_argument(argument)?;
            Ok(Reply::Value(kvm::KVM_API_VERSION))
        }
        kvm::KVM_CHECK_EXTENSION => Ok(Reply::Value(capability::value(hal, argument))),
        kvm::KVM_GET_VCPU_MMAP_SIZE => {
            no_argument(argument)?;
            Ok(Reply::Value(VCPU_MAP_SIZE))
        }
        // The argument is the type of the VM, and there is one.
        kvm::KVM_CREATE_VM if argument == 0 => Ok(Reply::NewVm),
        kvm::KVM_CREATE_VM => Err(Error::Invalid.into()),
        _ => Err(Failure::Unknown),
    }
}
