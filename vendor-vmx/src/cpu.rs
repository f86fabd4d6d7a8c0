//! Reading and writing this CPU's registers, and VMX instructions.
#![expect(unsafe_code, reason = "privileged instructions")]
use core::arch::asm;
use core::arch::x86_64::__cpuid;

use waterbear_hal::Hpa;
use x86::msr::{
    IA32_FEATURE_CONTROL, IA32_VMX_BASIC, IA32_VMX_ENTRY_CTLS, IA32_VMX_EPT_VPID_CAP,
    IA32_VMX_EXIT_CTLS, IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2,
    IA32_VMX_TRUE_ENTRY_CTLS, IA32_VMX_TRUE_EXIT_CTLS, IA32_VMX_TRUE_PINBASED_CTLS,
    IA32_VMX_TRUE_PROCBASED_CTLS, rdmsr, wrmsr,
};

use crate::controls::Capability;
use crate::detect::Facts;

const CR4_VMXE: u64 = 1 << 13;

/// What this CPU says about itself.
///
/// # Safety
///
/// This is the kernel.
pub unsafe fn facts() -> Facts {
    let features_ecx = __cpuid(1).ecx;
    let address_eax = if __cpuid(0x8000_0000).eax >= 0x8000_0008 {
        __cpuid(0x8000_0008).eax
    } else {
        0
    };
    let mut facts = Facts {
        features_ecx,
        address_eax,
        ..Facts::default()
    };
    if features_ecx & 1 << 5 == 0 {
        return facts;
    }
    // SAFETY: a CPU with VMX has these registers; the later ones exist where
    // the earlier ones say so.
    let read = |msr| unsafe { rdmsr(msr) };
    facts.feature_control = read(IA32_FEATURE_CONTROL);
    facts.basic = read(IA32_VMX_BASIC);
    let has_true = facts.basic & 1 << 55 != 0;
    let capability =
        |plain, exact| Capability::from_msr(read(if has_true { exact } else { plain }));
    facts.pin = capability(IA32_VMX_PINBASED_CTLS, IA32_VMX_TRUE_PINBASED_CTLS);
    facts.primary = capability(IA32_VMX_PROCBASED_CTLS, IA32_VMX_TRUE_PROCBASED_CTLS);
    facts.exit = capability(IA32_VMX_EXIT_CTLS, IA32_VMX_TRUE_EXIT_CTLS);
    facts.entry = capability(IA32_VMX_ENTRY_CTLS, IA32_VMX_TRUE_ENTRY_CTLS);
    const SECONDARY: u32 = 1 << 31;
    const EPT: u32 = 1 << 1;
    const VPID: u32 = 1 << 5;
    if facts.primary.allows(SECONDARY) {
        facts.secondary = Capability::from_msr(read(IA32_VMX_PROCBASED_CTLS2));
        if facts.secondary.allows(EPT) || facts.secondary.allows(VPID) {
            facts.ept = read(IA32_VMX_EPT_VPID_CAP);
        }
    }
    facts
}

/// Whether VMX operation may be on: CR4.VMXE.
pub fn is_enabled() -> bool {
    // SAFETY: reading CR4 has no effect; this is the kernel.
    let cr4 = unsafe { read_cr4() };
    cr4 & CR4_VMXE != 0
}

/// # Safety
///
/// This is the kernel.
unsafe fn read_cr4() -> u64 {
    let cr4;
    // SAFETY: as the caller promises.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) }
    cr4
}

/// # Safety
///
/// This is the kernel, and the value is what the caller wants.
unsafe fn write_cr4(cr4: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags)) }
}

/// Lets VMX be entered outside SMX, for good: firmware left that open.
///
/// # Safety
///
/// IA32_FEATURE_CONTROL is not locked.
pub unsafe fn unlock() {
    // SAFETY: the CPU has VMX, hence the register.
    let control = unsafe { rdmsr(IA32_FEATURE_CONTROL) };
    // SAFETY: not locked, as the caller promises.
    unsafe { wrmsr(IA32_FEATURE_CONTROL, control | 0b101) }
}

/// Turns VMX operation on; says whether the CPU did.
///
/// # Safety
///
/// The CPU has VMX, firmware allows it, it is off, interrupts are off, and
/// `region` is a page of this CPU's own that begins with the revision.
pub unsafe fn vmxon(region: Hpa) -> bool {
    // SAFETY: this is the kernel.
    let cr4 = unsafe { read_cr4() };
    // SAFETY: the CPU has VMX, so the bit may be set.
    unsafe { write_cr4(cr4 | CR4_VMXE) }
    // SAFETY: as the caller promises.
    let on = unsafe { x86::bits64::vmx::vmxon(region.0) }.is_ok();
    if !on {
        // SAFETY: as it was.
        unsafe { write_cr4(cr4) }
    }
    on
}

/// Turns VMX operation off.
///
/// # Safety
///
/// It is on, no control structure is current, and interrupts are off.
pub unsafe fn vmxoff() {
    // SAFETY: as the caller promises.
    let _ = unsafe { x86::bits64::vmx::vmxoff() };
    // SAFETY: this is the kernel.
    let cr4 = unsafe { read_cr4() };
    // SAFETY: VMX operation is off.
    unsafe { write_cr4(cr4 & !CR4_VMXE) }
}

/// Forgets what this CPU caches of the EPT tables with this pointer.
///
/// # Safety
///
/// VMX operation is on, and the CPU has single-context INVEPT.
pub unsafe fn invept(pointer: u64) {
    let descriptor = [pointer, 0];
    // SAFETY: as the caller promises; type 1 is single-context.
    unsafe {
        asm!("invept {}, [{}]", in(reg) 1u64, in(reg) &raw const descriptor, options(nostack));
    }
}
