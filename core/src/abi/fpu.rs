//! The FPU's state, as the interface has it.
//!
//! Source: Intel SDM volume 1, "Operation of FXSAVE" and "XSAVE Area".
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field};
use super::kvm::{kvm_fpu, kvm_xcrs};
use super::vcpu::{Context, State};
use super::{Answer, DONE};
use crate::Error;
use crate::mem::{Box, array};
use crate::vendor::Vendor;

/// The size of the XSAVE area that the interface exchanges.
pub(super) const AREA: usize = 4096;
const FPU: usize = size_of::<kvm_fpu>();
/// Where the header is, whose first word says which parts are there.
const HEADER: usize = 512;
/// x87 and SSE.
const LEGACY: u64 = 3;

/// Where the parts of the FXSAVE area are, where the interface has them, and how many bytes each
/// has.
const PARTS: [(usize, usize, usize); 9] = [
    (0, offset_of!(kvm_fpu, fcw), 2),
    (2, offset_of!(kvm_fpu, fsw), 2),
    (4, offset_of!(kvm_fpu, ftwx), 1),
    (6, offset_of!(kvm_fpu, last_opcode), 2),
    (8, offset_of!(kvm_fpu, last_ip), 8),
    (16, offset_of!(kvm_fpu, last_dp), 8),
    (24, offset_of!(kvm_fpu, mxcsr), 4),
    (32, offset_of!(kvm_fpu, fpr), 128),
    (160, offset_of!(kvm_fpu, xmm), 256),
];

fn part(bytes: &[u8], at: usize, size: usize) -> &[u8] {
    bytes
        .get(at..)
        .and_then(|rest| rest.get(..size))
        .unwrap_or_default()
}

impl<H: Hal, V: Vendor> State<H, V> {
    /// The state, as XSAVE writes it.
    fn area<C: Caller>(&self, context: &Context<'_, H, V, C>) -> Result<Box<[u8], H>, Error> {
        let mut area = array(&context.vm.hal, AREA, |_| 0)?;
        if !self.cpu.read_fpu(&mut area) {
            return Err(Error::NotSupported);
        }
        Ok(area)
    }

    pub(super) fn get_fpu<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let area = self.area(context)?;
        let mut bytes = [0; FPU];
        for (from, to, size) in PARTS {
            bytes::put(&mut bytes, to, part(&area, from, size));
        }
        context.caller.copy_out(context.argument, &bytes)?;
        DONE
    }

    pub(super) fn set_fpu<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let sent: [u8; FPU] = bytes::structure(context.caller, context.argument)?;
        let mut area = self.area(context)?;
        for (to, from, size) in PARTS {
            bytes::put(&mut area, to, part(&sent, from, size));
        }
        let present = bytes::u64(&area, HEADER) | LEGACY;
        bytes::put(&mut area, HEADER, &present.to_le_bytes());
        self.write_area(&area)
    }

    pub(super) fn get_xsave<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let area = self.area(context)?;
        context.caller.copy_out(context.argument, &area)?;
        DONE
    }

    pub(super) fn set_xsave<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let mut area = array(&context.vm.hal, AREA, |_| 0)?;
        context.caller.copy_in(context.argument, &mut area)?;
        self.write_area(&area)
    }

    fn write_area(&mut self, area: &[u8]) -> Answer {
        if self.cpu.write_fpu(area) {
            DONE
        } else {
            Err(Error::Invalid.into())
        }
    }

    pub(super) fn get_xcrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let mut bytes = [0; size_of::<kvm_xcrs>()];
        set_field!(bytes, kvm_xcrs.nr_xcrs = 1_u32);
        let xcr0 = context.vendor.switched(self.cpu.state()).xcr0;
        const VALUE: usize = offset_of!(kvm_xcrs, xcrs) + offset_of!(super::kvm::kvm_xcr, value);
        bytes::put(&mut bytes, VALUE, &xcr0.to_le_bytes());
        context.caller.copy_out(context.argument, &bytes)?;
        DONE
    }

    pub(super) fn set_xcrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let sent: [u8; size_of::<kvm_xcrs>()] = bytes::structure(context.caller, context.argument)?;
        let number = field!(sent, kvm_xcrs.nr_xcrs: u32);
        if number > 16 || field!(sent, kvm_xcrs.flags: u32) != 0 {
            return Err(Error::Invalid.into());
        }
        for index in 0..number as usize {
            const FIRST: usize = offset_of!(kvm_xcrs, xcrs);
            const SIZE: usize = size_of::<super::kvm::kvm_xcr>();
            let entry = sent.get(FIRST + index * SIZE..).unwrap_or_default();
            // XCR0 is the only one.
            if field!(entry, kvm_xcr.xcr: u32) == 0 {
                let value = field!(entry, kvm_xcr.value: u64);
                self.cpu.set_xcr0(context.vendor, value)?;
                break;
            }
        }
        DONE
    }
}
