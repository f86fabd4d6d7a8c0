//! Reading and writing this CPU's registers.
#![expect(unsafe_code, reason = "privileged instructions")]
use core::arch::x86_64::__cpuid;

use crate::detect::Facts;

/// EFER, "Extended Feature Enable Register".
pub const EFER: u32 = 0xc000_0080;
/// VM_CR, "Virtual Machine Control".
pub const VM_CR: u32 = 0xc001_0114;
/// VM_HSAVE_PA: where VMRUN keeps the host's state.
pub const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Reads a model-specific register.
///
/// # Safety
///
/// The CPU has the register, and this is the kernel.
pub unsafe fn read_msr(msr: u32) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { x86::msr::rdmsr(msr) }
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The CPU has the register, this is the kernel, and the value does what the
/// caller wants.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe { x86::msr::wrmsr(msr, value) }
}

/// What this CPU says about itself.
///
/// # Safety
///
/// This is the kernel.
pub unsafe fn facts() -> Facts {
    let last_extended = __cpuid(0x8000_0000).eax;
    let leaf = |number: u32| (last_extended >= number).then(|| __cpuid(number));
    let features = leaf(0x8000_0001);
    let svm = leaf(0x8000_000a);
    let has_svm = features.is_some_and(|leaf| leaf.ecx & 1 << 2 != 0);
    Facts {
        features_ecx: features.map_or(0, |leaf| leaf.ecx),
        features_edx: features.map_or(0, |leaf| leaf.edx),
        address_eax: leaf(0x8000_0008).map_or(0, |leaf| leaf.eax),
        svm_ebx: svm.map_or(0, |leaf| leaf.ebx),
        svm_edx: svm.map_or(0, |leaf| leaf.edx),
        vm_cr: if has_svm {
            // SAFETY: a CPU with SVM has the register.
            unsafe { read_msr(VM_CR) }
        } else {
            0
        },
    }
}
