//! Debug registers and XCR0.
//!
//! Source: Intel SDM volume 3, "Debug Registers", and volume 2, "XSETBV—Set Extended Control
//! Register"; AMD APM volume 2, "Debug Registers".
use waterbear_hal::Hal;

use super::GuestCpu;
use super::control::{Done, Raised};
use crate::Error;
use crate::arch::Cr4;
use crate::vendor::Vendor;

/// The bits of DR6 that are always 1.
const DR6_ONES: u64 = 0xffff_0ff0;
/// The bits of DR6 that change: B0 to B3, BD, BS, BT.
const DR6_BITS: u64 = 0xe00f;
/// DR6: a debug register was accessed while DR7 forbade it.
pub(super) const DR6_BD: u64 = 1 << 13;
/// DR6: single step.
pub(super) const DR6_BS: u64 = 1 << 14;
/// The bit of DR7 that is always 1.
const DR7_ONES: u64 = 0x400;
/// The bits of DR7 that change: L0 to G3, LE, GE, GD, the conditions and lengths.
const DR7_BITS: u64 = 0xffff_23ff;
/// DR7: accesses to debug registers raise #DB.
pub(super) const DR7_GD: u64 = 1 << 13;

/// Whether XCR0 can have this value on a CPU that has these parts.
pub fn xcr0_is_valid(available: u64, value: u64) -> bool {
    const X87: u64 = 1;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const AVX512: u64 = 0xe0;
    value & !available == 0
        && value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & AVX512 == AVX512 && value & AVX != 0)
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// The register that a number stands for, when the guest may access it now.
    fn debug_register(&mut self, vendor: &V, number: u8) -> Result<u8, Raised> {
        let extensions = self.cr4(vendor).contains(Cr4::DE);
        let register = match number {
            4 | 5 if extensions => return Err(Raised::Opcode),
            4 | 5 => number + 2,
            0..=7 => number,
            _ => return Err(Raised::Opcode),
        };
        let state = self.runner.state();
        if vendor.cpl(state) != 0 {
            return Err(Raised::Protection);
        }
        if vendor.switched(state).dr7 & DR7_GD != 0 {
            return Err(Raised::Debug);
        }
        Ok(register)
    }

    /// Reads a debug register as the MOV instruction does.
    pub(super) fn read_debug(&mut self, vendor: &V, number: u8) -> Result<u64, Raised> {
        let register = self.debug_register(vendor, number)?;
        let switched = vendor.switched(self.runner.state());
        Ok(match register {
            6 => switched.dr6,
            7 => switched.dr7,
            n => switched
                .breakpoints
                .get(usize::from(n))
                .copied()
                .ok_or(Raised::Protection)?,
        })
    }

    /// Writes a debug register as the MOV instruction does.
    pub(super) fn write_debug(&mut self, vendor: &V, number: u8, value: u64) -> Done {
        let register = self.debug_register(vendor, number)?;
        self.store_debug(vendor, register, value)
            .ok_or(Raised::Protection)
    }

    fn store_debug(&mut self, vendor: &V, register: u8, value: u64) -> Option<()> {
        let switched = vendor.switched(self.runner.state());
        match register {
            6 | 7 if value >> 32 != 0 => return None,
            6 => switched.dr6 = value & DR6_BITS | DR6_ONES,
            7 => switched.dr7 = value & DR7_BITS | DR7_ONES,
            n => *switched.breakpoints.get_mut(usize::from(n))? = value,
        }
        Some(())
    }

    /// Sets DR0 to DR3, DR6 or DR7.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for another register, or bits that must be zero.
    pub fn set_debug(&mut self, vendor: &V, register: u8, value: u64) -> Result<(), Error> {
        self.store_debug(vendor, register, value)
            .ok_or(Error::Invalid)
    }

    /// XSETBV.
    pub(super) fn set_extended_control(&mut self, vendor: &V) -> Done {
        if !self.cr4(vendor).contains(Cr4::OSXSAVE) {
            return Err(Raised::Opcode);
        }
        let state = self.runner.state();
        if vendor.cpl(state) != 0 {
            return Err(Raised::Protection);
        }
        let regs = vendor.regs(state);
        let (register, value) = (regs.ecx(), regs.edx_eax());
        if register != 0 || !xcr0_is_valid(self.features.xcr0, value) {
            return Err(Raised::Protection);
        }
        vendor.switched(state).xcr0 = value;
        Ok(())
    }

    /// Sets XCR0.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when this machine cannot have it for a guest.
    pub fn set_xcr0(&mut self, vendor: &V, value: u64) -> Result<(), Error> {
        // A CPU without XSAVE has the value of a reset.
        let valid = value == 1 || xcr0_is_valid(self.host.xcr0, value);
        if !valid {
            return Err(Error::Invalid);
        }
        vendor.switched(self.runner.state()).xcr0 = value;
        Ok(())
    }
}
