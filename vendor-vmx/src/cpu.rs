//! Reading and writing this CPU's registers, and VMX instructions.
#![expect(unsafe_code, reason = "privileged instructions")]
use core::arch::asm;
use core::arch::x86_64::__cpuid;

use waterbear_core::arch::Cr4;
use waterbear_hal::Hpa;
use x86::msr::{
    IA32_FEATURE_CONTROL, IA32_FS_BASE, IA32_VMX_BASIC, IA32_VMX_CR0_FIXED0, IA32_VMX_CR4_FIXED0,
    IA32_VMX_EPT_VPID_CAP, IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS2,
    IA32_VMX_TRUE_PINBASED_CTLS,
};

use crate::controls::{Capability, Group};
use crate::detect::Facts;

/// CR4: VMX operation may be on.
pub const CR4_VMXE: u64 = 1 << 13;

/// What this CPU says about itself.
pub(crate) fn facts() -> Facts {
    let mut facts = Facts {
        features_ecx: __cpuid(1).ecx,
        ..Facts::default()
    };
    if __cpuid(0x8000_0000).eax >= 0x8000_0008 {
        facts.address_eax = __cpuid(0x8000_0008).eax;
    }
    if facts.features_ecx & 1 << 5 == 0 {
        return facts;
    }
    // SAFETY: this is the kernel; a CPU with VMX has these registers; the later ones exist where
    // the earlier ones say so.
    let read = |msr| unsafe { read_msr(msr) };
    facts.feature_control = read(IA32_FEATURE_CONTROL);
    facts.basic = read(IA32_VMX_BASIC);
    let has_true = facts.basic & 1 << 55 != 0;
    let first = if has_true {
        IA32_VMX_TRUE_PINBASED_CTLS
    } else {
        IA32_VMX_PINBASED_CTLS
    };
    for (number, group) in (0..4).zip(&mut facts.controls) {
        *group = Capability::from_msr(read(first + number));
    }
    const SECONDARY: u32 = 1 << 31;
    const EPT: u32 = 1 << 1;
    const VPID: u32 = 1 << 5;
    if facts.controls[Group::Primary as usize].allows(SECONDARY) {
        let secondary = Capability::from_msr(read(IA32_VMX_PROCBASED_CTLS2));
        facts.controls[Group::Secondary as usize] = secondary;
        if secondary.allows(EPT) || secondary.allows(VPID) {
            facts.ept = read(IA32_VMX_EPT_VPID_CAP);
        }
    }
    facts
}

/// Whether VMX operation may be on: CR4.VMXE.
pub fn is_enabled() -> bool {
    read_cr4() & CR4_VMXE != 0
}

macro_rules! read_register {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u64 {
            let value;
            // SAFETY: reading the register has no effect; this is the kernel.
            unsafe { asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags)) }
            value
        }
    };
}

read_register!(
    /// CR0.
    read_cr0, "mov {}, cr0");
read_register!(
    /// CR2.
    read_cr2, "mov {}, cr2");
read_register!(
    /// CR3.
    read_cr3, "mov {}, cr3");
read_register!(
    /// CR4.
    read_cr4, "mov {}, cr4");
read_register!(
    /// DR7.
    read_dr7, "mov {}, dr7");

/// DR0 to DR3.
pub fn read_breakpoints() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reading the registers has no effect; this is the kernel.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) a, out(reg) b, out(reg) c, out(reg) d,
            options(nomem, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// Sets DR0 to DR3.
///
/// # Safety
///
/// DR7 uses none of them.
pub unsafe fn write_breakpoints([a, b, c, d]: [u64; 4]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nomem, nostack, preserves_flags));
    }
}

/// Sets DR7.
///
/// # Safety
///
/// What it makes the CPU stop at, the host expects.
pub unsafe fn write_dr7(value: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mov dr7, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
}

/// Sets CR2, which only tells the handler of a page fault where it was.
#[inline(always)]
pub fn write_cr2(value: u64) {
    // SAFETY: interrupts are off, and no handler of a page fault is interrupted.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
}

/// Sets CR4.
///
/// # Safety
///
/// The CPU takes the value, and it is what the host wants there.
pub unsafe fn write_cr4(cr4: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags)) }
}

/// Reads a model-specific register.
///
/// # Safety
///
/// This CPU has it.
#[inline(always)]
pub unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
///
/// This CPU has it and takes the value, and it is what the host wants there.
#[inline(always)]
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// XCR0.
///
/// # Safety
///
/// CR4.OSXSAVE is set.
pub unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets XCR0.
///
/// # Safety
///
/// CR4.OSXSAVE is set, the CPU takes the value, and it is what the host wants there.
pub unsafe fn write_xcr0(value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags));
    }
}

/// Raises an NMI that an exit has taken from the host. Its handler runs as it would have, and the
/// IRET at its end lets further NMIs come, which the exit has blocked.
///
/// # Safety
///
/// An exit has taken one, and the host's state is back.
pub unsafe fn raise_nmi() {
    // SAFETY: the host's handler returns as from any NMI.
    unsafe { asm!("int 2") }
}

/// Raises a machine check in the same way.
///
/// # Safety
///
/// An exit has taken one, and the host's state is back.
pub unsafe fn raise_machine_check() {
    // SAFETY: the host's handler returns as from any machine check, or ends the machine.
    unsafe { asm!("int 18") }
}

/// The base address of FS. `cr4` is CR4: the quicker way is taken where it is on.
#[inline(always)]
pub fn read_fs_base(cr4: u64) -> u64 {
    if cr4 & Cr4::FSGSBASE.bits() == 0 {
        // SAFETY: every 64-bit CPU has the register.
        return unsafe { read_msr(IA32_FS_BASE) };
    }
    let base;
    // SAFETY: the bit of CR4 is set.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) }
    base
}

/// Lets VMX be entered outside SMX, for good, if firmware left that open.
///
/// # Safety
///
/// The CPU has VMX.
pub unsafe fn unlock() {
    const LOCKED: u64 = 1 << 0;
    const VMX_OUTSIDE_SMX: u64 = 1 << 2;
    // SAFETY: the CPU has VMX, hence the register.
    let control = unsafe { read_msr(IA32_FEATURE_CONTROL) };
    if control & LOCKED == 0 {
        let open = control | LOCKED | VMX_OUTSIDE_SMX;
        // SAFETY: it is not locked.
        unsafe { write_msr(IA32_FEATURE_CONTROL, open) }
    }
}

/// Turns VMX operation on; says whether the CPU did.
///
/// # Safety
///
/// It is off, the CPU has it and firmware allows it, CR4.VMXE is set, interrupts are off, and
/// `region` is a page of this CPU's own that begins with the revision.
pub unsafe fn vmxon(region: Hpa) -> bool {
    // SAFETY: as the caller promises.
    unsafe { x86::bits64::vmx::vmxon(region.0) }.is_ok()
}

/// Turns VMX operation off.
///
/// # Safety
///
/// It is on, and no control structure is active on this CPU.
pub unsafe fn vmxoff() {
    // SAFETY: as the caller promises.
    let _ = unsafe { x86::bits64::vmx::vmxoff() };
}

/// Writes a control structure back to memory. One that is not active here has no state here.
///
/// # Safety
///
/// VMX operation is on, and the structure is active on no other CPU.
pub unsafe fn vmclear(address: u64) {
    // SAFETY: as the caller promises.
    let _ = unsafe { x86::bits64::vmx::vmclear(address) };
}

/// Makes a control structure current.
///
/// # Safety
///
/// VMX operation is on, and the structure is active on no other CPU.
pub unsafe fn vmptrld(address: u64) {
    // SAFETY: as the caller promises.
    let _ = unsafe { x86::bits64::vmx::vmptrld(address) };
}

/// Forgets what this CPU caches of the EPT tables with this pointer.
///
/// # Safety
///
/// VMX operation is on, and the CPU has single-context INVEPT.
pub unsafe fn invept(pointer: u64) {
    const SINGLE: u64 = 1;
    // SAFETY: as the caller promises.
    unsafe { invalidate(SINGLE, pointer) }
}

/// Forgets what this CPU caches of any EPT tables.
///
/// # Safety
///
/// VMX operation is on, and the CPU has global INVEPT.
pub unsafe fn invept_all() {
    const ALL: u64 = 2;
    // SAFETY: as the caller promises.
    unsafe { invalidate(ALL, 0) }
}

/// # Safety
///
/// VMX operation is on, and the CPU has this form of INVEPT.
unsafe fn invalidate(form: u64, pointer: u64) {
    let descriptor = [pointer, 0];
    // SAFETY: as the caller promises.
    unsafe {
        asm!("invept {}, [{}]", in(reg) form, in(reg) &raw const descriptor, options(nostack));
    }
}

/// The bits that CR0 and CR4 must have in VMX operation.
#[derive(Clone, Copy, Debug)]
pub struct Fixed0 {
    /// Of CR0, without protected mode and paging: with unrestricted guests a guest may have them
    /// off.
    pub cr0: u64,
    /// Of CR4.
    pub cr4: u64,
}

/// Reads them on this CPU, which has VMX.
pub(crate) fn fixed0() -> Fixed0 {
    const PE_PG: u64 = 1 | 1 << 31;
    // SAFETY: a CPU with VMX has the registers.
    let msr = |number| unsafe { read_msr(number) };
    Fixed0 {
        cr0: msr(IA32_VMX_CR0_FIXED0) & !PE_PG,
        cr4: msr(IA32_VMX_CR4_FIXED0),
    }
}
