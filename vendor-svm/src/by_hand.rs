//! Host registers that neither VMRUN nor VMLOAD gives back: switched here, around the run.
//!
//! The table of all of them is [`host_state`](crate::host_state).
#![expect(unsafe_code, reason = "debug, control and model-specific registers")]
use waterbear_core::arch::Cr4;
use waterbear_core::regs::Switched;

use crate::cpu::{self, TSC_AUX, XSS, read_msr, write_msr};
use crate::detect::Has;

/// DR7 with no breakpoint in use.
const DR7_OFF: u64 = 0x400;
/// The enable bits of the four breakpoints.
const DR7_ENABLES: u64 = 0xff;

/// The host's values while the guest's are in the CPU.
pub struct ByHand {
    cr2: u64,
    dr6: u64,
    dr7: u64,
    /// `Some` when the guest's are in the CPU.
    breakpoints: Option<[u64; 4]>,
    tsc_aux: Option<u64>,
    /// `Some` when the guest has XSAVE switched on.
    xcr0: Option<u64>,
    xss: Option<u64>,
    /// What the guest left in CR2 and DR6.
    left: (u64, u64),
}

impl ByHand {
    /// Puts the guest's values into the CPU. DR6 and DR7 are only noted: VMRUN loads the guest's.
    /// It loads CR2 as well, but an emulator may not.
    ///
    /// # Safety
    ///
    /// This is the kernel with interrupts off, until [`restore`](ByHand::restore); the core has
    /// checked the values; `has` is what this CPU has.
    pub unsafe fn load(guest: &Switched, cr4: u64, tsc_aux: u64, has: Has) -> Self {
        // SAFETY: the kernel may read it.
        let cr2 = unsafe { cpu::read_cr2() };
        if cr2 != guest.cr2 {
            // SAFETY: no fault of the host's is being handled.
            unsafe { cpu::write_cr2(guest.cr2) }
        }
        // SAFETY: the kernel may read it.
        let dr6 = unsafe { cpu::read_dr6() };
        // SAFETY: the kernel may read it.
        let dr7 = unsafe { cpu::read_dr7() };
        let breakpoints = (guest.dr7 & DR7_ENABLES != 0).then(|| {
            // The host must not stop at the guest's addresses.
            // SAFETY: no breakpoint is in use then.
            unsafe { cpu::write_dr7(DR7_OFF) }
            // SAFETY: the kernel may read them.
            let host = unsafe { cpu::read_breakpoints() };
            // SAFETY: DR7 uses none of them.
            unsafe { cpu::write_breakpoints(guest.breakpoints) }
            host
        });
        // SAFETY: the CPU has the register.
        let tsc_aux = has
            .contains(Has::TSC_AUX)
            .then(|| unsafe { swap_msr(TSC_AUX, tsc_aux) });
        // Without CR4.OSXSAVE the guest can use neither register.
        // SAFETY: the kernel may read it.
        let xsave = has.contains(Has::XSAVE) && both_have_xsave(cr4, unsafe { cpu::read_cr4() });
        let xcr0 = xsave.then(|| {
            // SAFETY: the host has CR4.OSXSAVE set.
            let host = unsafe { cpu::read_xcr0() };
            if host != guest.xcr0 {
                // SAFETY: as above; the core has checked the value.
                unsafe { cpu::write_xcr0(guest.xcr0) }
            }
            host
        });
        // SAFETY: the CPU has the register; the core has checked the value.
        let xss = (xsave && has.contains(Has::XSAVES)).then(|| unsafe { swap_msr(XSS, guest.xss) });
        Self {
            cr2,
            dr6,
            dr7,
            breakpoints,
            tsc_aux,
            xcr0,
            xss,
            left: (guest.cr2, dr6),
        }
    }

    /// Notes what the guest has left in CR2 and DR6.
    #[inline(always)]
    pub fn left(&mut self, cr2: u64, dr6: u64) {
        self.left = (cr2, dr6);
    }

    /// Puts the host's values back. `guest` and `tsc_aux` are what `load` got.
    ///
    /// # Safety
    ///
    /// On the CPU of `load`, in the same section with interrupts off.
    pub unsafe fn restore(&self, guest: &mut Switched, tsc_aux: u64) {
        let (cr2, dr6) = self.left;
        if self.cr2 != cr2 {
            // SAFETY: the host's own value.
            unsafe { cpu::write_cr2(self.cr2) }
        }
        if self.dr6 != dr6 {
            // SAFETY: the host's own value.
            unsafe { cpu::write_dr6(self.dr6) }
        }
        if let Some(host) = self.breakpoints {
            // An exit switches the breakpoints off; an emulator may not.
            // SAFETY: no breakpoint is in use then.
            unsafe { cpu::write_dr7(DR7_OFF) }
            // SAFETY: the host's own values, and DR7 uses none of them.
            unsafe { cpu::write_breakpoints(host) }
        }
        if self.dr7 != DR7_OFF || guest.dr7 != DR7_OFF {
            // SAFETY: the host's own value.
            unsafe { cpu::write_dr7(self.dr7) }
        }
        if let Some(host) = self.tsc_aux
            && host != tsc_aux
        {
            // SAFETY: the host's own value.
            unsafe { write_msr(TSC_AUX, host) }
        }
        if let Some(host) = self.xcr0 {
            // Where XSETBV does not exit (some emulators), the guest has changed it by itself.
            // SAFETY: the host has CR4.OSXSAVE set.
            guest.xcr0 = unsafe { cpu::read_xcr0() };
            if guest.xcr0 != host {
                // SAFETY: the host's own value.
                unsafe { cpu::write_xcr0(host) }
            }
        }
        if let Some(host) = self.xss
            && host != guest.xss
        {
            // SAFETY: the host's own value.
            unsafe { write_msr(XSS, host) }
        }
    }
}

fn both_have_xsave(guest_cr4: u64, host_cr4: u64) -> bool {
    Cr4::from_bits_retain(guest_cr4 & host_cr4).contains(Cr4::OSXSAVE)
}

/// Writes an MSR if it has another value; returns what it had.
///
/// # Safety
///
/// As for [`read_msr`] and [`write_msr`].
unsafe fn swap_msr(msr: u32, value: u64) -> u64 {
    // SAFETY: as the caller promises.
    let old = unsafe { read_msr(msr) };
    if old != value {
        // SAFETY: as the caller promises.
        unsafe { write_msr(msr, value) }
    }
    old
}
