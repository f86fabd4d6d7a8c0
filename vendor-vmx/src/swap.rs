//! What neither an entry nor an exit switches, switched by hand around the guest's run.
//!
//! Each is written only where guest and host differ, and the host's is back when the run is over:
//! what the host does next may need it at once, and nobody tells when.
//!
//! - STAR, LSTAR, CSTAR, SFMASK: only while the guest can use SYSCALL (EFER.SCE). The guest cannot
//!   change them without an exit.
//! - KERNEL_GS_BASE: only while the guest is in long mode, where SWAPGS changes it without an exit.
//! - TSC_AUX: where the guest has RDTSCP.
//! - XCR0: where the host has switched XSAVE on. XSS: where the guest has XSAVES.
//! - CR2: the guest's is read back. The host's is not kept: a handler of page faults reads what its
//!   own fault wrote.
//! - DR0 to DR3: only while the guest's DR7 uses one. DR7 itself is loaded by the entry and reset
//!   by the exit. Accesses exit, and so does every debug exception: DR6 never changes.
//! - DEBUGCTL: cleared by the exit.
#![expect(unsafe_code, reason = "writing this CPU's registers")]
use waterbear_core::arch::{Cr4, Efer};
use waterbear_core::regs::Switched;
use waterbear_core::vendor::Msr;
use x86::msr::{
    IA32_CSTAR, IA32_DEBUGCTL, IA32_FMASK, IA32_KERNEL_GSBASE, IA32_LSTAR, IA32_STAR, IA32_TSC_AUX,
};

use crate::cpu::{
    read_breakpoints, read_cr2, read_dr7, read_msr, read_xcr0, write_breakpoints, write_cr2,
    write_dr7, write_msr, write_xcr0,
};

/// IA32_XSS.
const IA32_XSS: u32 = 0xda0;
/// DR7 after an exit.
const DR7_RESET: u64 = 0x400;
/// The bits of DR7 that use a breakpoint.
const DR7_USED: u64 = 0xff;

/// The registers of SYSCALL, which come first in [`Msrs`].
const SYSCALL: [u32; 4] = [IA32_STAR, IA32_LSTAR, IA32_CSTAR, IA32_FMASK];

/// The guest's registers by their numbers, [`Msr`]; unused are those that the control structure
/// has.
pub type Msrs = [u64; Msr::TscAux as usize + 1];

const KERNEL_GS: usize = Msr::KernelGsBase as usize;
const TSC_AUX: usize = Msr::TscAux as usize;

/// Which of them there are to switch.
#[derive(Clone, Copy)]
pub struct Which {
    /// The guest has RDTSCP.
    pub tsc_aux: bool,
    /// The guest has XSAVES.
    pub xss: bool,
}

/// The host's, read once per load of a control structure.
#[derive(Clone, Copy, Default)]
pub struct Fixed {
    /// STAR, LSTAR, CSTAR, SFMASK.
    syscall: [u64; 4],
    tsc_aux: u64,
    xcr0: u64,
    xss: u64,
}

impl Fixed {
    /// Reads them. `cr4` is the host's.
    pub fn read(&mut self, which: Which, cr4: u64) {
        // SAFETY: every 64-bit CPU has the registers of SYSCALL, and the others where `which` says
        // so; this is the kernel.
        let msr = |number| unsafe { read_msr(number) };
        for (value, &number) in self.syscall.iter_mut().zip(&SYSCALL) {
            *value = msr(number);
        }
        if which.tsc_aux {
            self.tsc_aux = msr(IA32_TSC_AUX);
        }
        if cr4 & Cr4::OSXSAVE.bits() != 0 {
            // SAFETY: the bit is set.
            self.xcr0 = unsafe { read_xcr0() };
        }
        if which.xss {
            self.xss = msr(IA32_XSS);
        }
    }
}

/// What must be known to switch back.
pub struct Swapped {
    efer: Efer,
    kernel_gs: u64,
    debug_control: u64,
    dr7: u64,
    breakpoints: Option<[u64; 4]>,
    xcr0: bool,
}

/// Sets a register from `old` to `new`.
///
/// # Safety
///
/// This CPU has the register and takes the value, and the host's comes back.
#[inline(always)]
unsafe fn change(msr: u32, old: u64, new: u64) {
    if old != new {
        // SAFETY: as the caller promises.
        unsafe { write_msr(msr, new) }
    }
}

/// Sets the registers of SYSCALL from `old` to `new`, the first four of each.
///
/// # Safety
///
/// As for [`change`].
#[inline(never)]
unsafe fn change_syscall(old: &[u64], new: &[u64]) {
    for ((&msr, &old), &new) in SYSCALL.iter().zip(old).zip(new) {
        // SAFETY: as the caller promises; every 64-bit CPU has the registers.
        unsafe { change(msr, old, new) }
    }
}

/// Puts the guest's into the CPU. Interrupts are off until [`out`].
///
/// # Safety
///
/// `fixed` was read on this CPU, whose CR4 is `cr4`; the CPU takes the guest's values.
#[inline(always)]
pub unsafe fn into(
    fixed: &Fixed,
    which: Which,
    cr4: u64,
    efer: Efer,
    msrs: &Msrs,
    guest: &Switched,
) -> Swapped {
    let mut swapped = Swapped {
        efer,
        kernel_gs: 0,
        // SAFETY: every CPU with VMX has the register.
        debug_control: unsafe { read_msr(IA32_DEBUGCTL) },
        dr7: read_dr7(),
        breakpoints: None,
        xcr0: cr4 & Cr4::OSXSAVE.bits() != 0 && fixed.xcr0 != guest.xcr0,
    };
    if efer.contains(Efer::SCE) {
        // SAFETY: `out` puts the host's back.
        unsafe { change_syscall(&fixed.syscall, msrs) }
    }
    if efer.contains(Efer::LMA) {
        // SAFETY: every 64-bit CPU has the register.
        swapped.kernel_gs = unsafe { read_msr(IA32_KERNEL_GSBASE) };
        // SAFETY: as above; `out` puts the host's back.
        unsafe { change(IA32_KERNEL_GSBASE, swapped.kernel_gs, msrs[KERNEL_GS]) }
    }
    if which.tsc_aux {
        // SAFETY: as above, and the CPU has the register.
        unsafe { change(IA32_TSC_AUX, fixed.tsc_aux, msrs[TSC_AUX]) }
    }
    if which.xss {
        // SAFETY: as above.
        unsafe { change(IA32_XSS, fixed.xss, guest.xss) }
    }
    if swapped.xcr0 {
        // SAFETY: OSXSAVE is set, and the CPU takes the value.
        unsafe { write_xcr0(guest.xcr0) }
    }
    if guest.dr7 & DR7_USED != 0 {
        swapped.breakpoints = Some(read_breakpoints());
        if swapped.dr7 & DR7_USED != 0 {
            // The host's breakpoints are not at the guest's addresses.
            // SAFETY: stops nowhere.
            unsafe { write_dr7(DR7_RESET) }
        }
        // SAFETY: no breakpoint is in use.
        unsafe { write_breakpoints(guest.breakpoints) }
    }
    if read_cr2() != guest.cr2 {
        write_cr2(guest.cr2);
    }
    swapped
}

/// Puts the host's back, and notes what the guest has changed.
///
/// # Safety
///
/// `swapped` is what [`into`] has returned on this CPU, with the same arguments.
#[inline(always)]
pub unsafe fn out(
    swapped: &Swapped,
    fixed: &Fixed,
    which: Which,
    msrs: &mut Msrs,
    guest: &mut Switched,
) {
    guest.cr2 = read_cr2();
    if swapped.xcr0 {
        // SAFETY: the host's own.
        unsafe { write_xcr0(fixed.xcr0) }
    }
    if which.xss {
        // SAFETY: the host's own.
        unsafe { change(IA32_XSS, guest.xss, fixed.xss) }
    }
    if which.tsc_aux {
        // SAFETY: the host's own.
        unsafe { change(IA32_TSC_AUX, msrs[TSC_AUX], fixed.tsc_aux) }
    }
    if swapped.efer.contains(Efer::LMA) {
        // SAFETY: every 64-bit CPU has the register.
        msrs[KERNEL_GS] = unsafe { read_msr(IA32_KERNEL_GSBASE) };
        // SAFETY: the host's own.
        unsafe { change(IA32_KERNEL_GSBASE, msrs[KERNEL_GS], swapped.kernel_gs) }
    }
    if swapped.efer.contains(Efer::SCE) {
        // SAFETY: the host's own.
        unsafe { change_syscall(msrs, &fixed.syscall) }
    }
    // SAFETY: the exit has cleared it; the host's own.
    unsafe { change(IA32_DEBUGCTL, 0, swapped.debug_control) }
    if let Some(breakpoints) = swapped.breakpoints {
        // SAFETY: the exit has reset DR7.
        unsafe { write_breakpoints(breakpoints) }
    }
    if swapped.dr7 != DR7_RESET {
        // SAFETY: the host's own.
        unsafe { write_dr7(swapped.dr7) }
    }
}
