//! Exits that are dealt with before the guest's state is out of the CPU.
//!
//! Interrupts are off, so this is for what needs registers and nothing else. Whatever is unusual
//! about an exit sends it the long way, [`exit`](super::exit).
use waterbear_hal::Hal;

use super::cpuid::Asked;
use crate::arch::{Rflags, Shadow};
use crate::exit::Exit;
use crate::vendor::Vendor;

/// Deals with an exit; says whether it has. The caller sees to it that no event waits and no
/// window was asked for.
#[inline(always)]
pub(super) fn finish<H: Hal, V: Vendor>(
    asked: &Asked<'_, H>,
    vendor: &V,
    state: &mut V::Vcpu,
    exit: Exit,
) -> bool {
    if !matches!(exit, Exit::Cpuid) {
        return false;
    }
    let length = vendor.length(state);
    let shadow = vendor.shadow(state);
    let regs = vendor.regs(state);
    let next = regs.rip.wrapping_add(length.into());
    let plain = length != 0
        && regs.rflags & Rflags::TF.bits() == 0
        && !shadow.intersects(Shadow::STI | Shadow::MOV_SS)
        // Beyond 4 GiB it depends on the code segment.
        && (regs.rip ^ next) >> 32 == 0;
    if plain {
        regs.rip = next;
        regs.rflags &= !Rflags::RF.bits();
        asked.execute(vendor, state);
    }
    plain
}
