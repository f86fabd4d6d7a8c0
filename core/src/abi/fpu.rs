//! The FPU's state, as the interface has it.
//!
//! Source: Intel SDM volume 1, "Operation of FXSAVE" and "XSAVE Area".
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Caller, Structure, field, set_field};
use super::kvm::{kvm_fpu, kvm_xcr, kvm_xcrs};
use super::vcpu::{Context, State};
use super::{Answer, DONE};
use crate::Error;
use crate::mem::{Box, bytes_of, bytes_of_mut, zeros};
use crate::vendor::Vendor;

/// The size of the XSAVE area that the interface exchanges.
pub(super) const AREA: usize = 4096;
/// Where the header is, whose first word says which parts are there.
const HEADER: usize = 512;
/// x87 and SSE.
const LEGACY: u64 = 3;

/// Where the parts of the FXSAVE area are, where the interface has them, and how many bytes each
/// has.
const PARTS: [(u16, u16, u16); 9] = [
    (0, offset_of!(kvm_fpu, fcw) as u16, 2),
    (2, offset_of!(kvm_fpu, fsw) as u16, 2),
    (4, offset_of!(kvm_fpu, ftwx) as u16, 1),
    (6, offset_of!(kvm_fpu, last_opcode) as u16, 2),
    (8, offset_of!(kvm_fpu, last_ip) as u16, 8),
    (16, offset_of!(kvm_fpu, last_dp) as u16, 8),
    (24, offset_of!(kvm_fpu, mxcsr) as u16, 4),
    (32, offset_of!(kvm_fpu, fpr) as u16, 128),
    (160, offset_of!(kvm_fpu, xmm) as u16, 256),
];

/// Copies a part.
#[inline(never)]
fn copy(into: &mut [u8], to: u16, from: &[u8], at: u16, size: u16) {
    let part = from.get(at.into()..).unwrap_or_default();
    bytes::put_all(into, to.into(), part.get(..size.into()).unwrap_or_default());
}

impl<H: Hal, V: Vendor> State<H, V> {
    /// The state, as XSAVE writes it.
    #[inline(never)]
    fn area(&self, hal: &H) -> Result<Box<[u64], H>, Error> {
        let mut area = zeros(hal, AREA / 8)?;
        if !self.cpu.read_fpu(bytes_of_mut(&mut area)) {
            return Err(Error::NotSupported);
        }
        Ok(area)
    }

    pub(super) fn get_fpu(&mut self, hal: &H, structure: &mut Structure) -> Result<(), Error> {
        let area = self.area(hal)?;
        for (from, to, size) in PARTS {
            copy(structure, to, bytes_of(&area), from, size);
        }
        Ok(())
    }

    pub(super) fn set_fpu(&mut self, hal: &H, sent: &Structure) -> Result<(), Error> {
        let mut area = self.area(hal)?;
        for (to, from, size) in PARTS {
            copy(bytes_of_mut(&mut area), to, sent, from, size);
        }
        if let Some(present) = area.get_mut(HEADER / 8) {
            *present |= LEGACY;
        }
        self.write_area(&area)
    }

    pub(super) fn get_xsave<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let area = self.area(&context.vm.hal)?;
        context.caller.copy_out(context.argument, bytes_of(&area))?;
        DONE
    }

    pub(super) fn set_xsave<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let mut area = zeros(&context.vm.hal, AREA / 8)?;
        context
            .caller
            .copy_in(context.argument, bytes_of_mut(&mut area))?;
        self.write_area(&area)?;
        DONE
    }

    fn write_area(&mut self, area: &[u64]) -> Result<(), Error> {
        if self.cpu.write_fpu(bytes_of(area)) {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    pub(super) fn get_xcrs(&mut self, vendor: &V, bytes: &mut Structure) {
        const VALUE: usize = FIRST_XCR + offset_of!(kvm_xcr, value);
        set_field!(bytes, kvm_xcrs.nr_xcrs = 1_u32);
        let xcr0 = vendor.switched(self.cpu.state()).xcr0;
        bytes::put(bytes, VALUE, xcr0.to_le_bytes());
    }

    pub(super) fn set_xcrs(&mut self, vendor: &V, sent: &Structure) -> Result<(), Error> {
        let number = field!(sent, kvm_xcrs.nr_xcrs: u32);
        if number > 16 || field!(sent, kvm_xcrs.flags: u32) != 0 {
            return Err(Error::Invalid);
        }
        let (_, entries) = sent.split_at(FIRST_XCR);
        let (entries, _) = entries.as_chunks::<{ size_of::<kvm_xcr>() }>();
        for entry in entries.iter().take(number as usize) {
            // XCR0 is the only one.
            if field!(entry, kvm_xcr.xcr: u32) == 0 {
                return self.cpu.set_xcr0(vendor, field!(entry, kvm_xcr.value: u64));
            }
        }
        Ok(())
    }
}

/// Where the extended control registers begin.
const FIRST_XCR: usize = offset_of!(kvm_xcrs, xcrs);
