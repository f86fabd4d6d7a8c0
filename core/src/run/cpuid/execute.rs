//! CPUID as an instruction.
use waterbear_hal::Hal;

use super::{Features, Table};
use crate::arch::Cr4;
use crate::vendor::{Control, Vendor};

/// What an answer depends on, beside the vendor's state.
pub(in crate::run) struct Asked<'a, H: Hal> {
    pub(in crate::run) table: &'a Table<H>,
    pub(in crate::run) features: &'a Features,
    pub(in crate::run) apic_base: u64,
}

impl<H: Hal> Asked<'_, H> {
    /// Executes it.
    #[inline]
    pub(in crate::run) fn execute<V: Vendor>(&self, vendor: &V, state: &mut V::Vcpu) {
        let regs = vendor.regs(state);
        let (function, index) = (regs.eax(), regs.ecx());
        let mut answer = self.table.ask(function, index);
        if matches!(function, 1 | 7 | 0xd) {
            self.amend(vendor, state, function, index, &mut answer);
        }
        let [a, b, c, d] = answer.map(u64::from);
        let [rax, rcx, rdx, rbx, ..] = &mut vendor.regs(state).general;
        (*rax, *rbx, *rcx, *rdx) = (a, b, c, d);
    }

    /// The bits of an answer that follow other registers.
    fn amend<V: Vendor>(
        &self,
        vendor: &V,
        state: &mut V::Vcpu,
        function: u32,
        index: u32,
        answer: &mut [u32; 4],
    ) {
        const OSXSAVE: u32 = 1 << 27;
        const OSPKE: u32 = 1 << 4;
        const APIC: u32 = 1 << 9;
        const APIC_ENABLED: u64 = 1 << 11;
        let [_, b, c, d] = answer;
        let follow = |word: &mut u32, bit: u32, on: bool| {
            *word = if on { *word | bit } else { *word & !bit };
        };
        let mut cr4 =
            |bit| Cr4::from_bits_retain(vendor.control(state, Control::Cr4)).contains(bit);
        match (function, index) {
            (1, _) => {
                follow(c, OSXSAVE, cr4(Cr4::OSXSAVE));
                if self.apic_base & APIC_ENABLED == 0 {
                    *d &= !APIC;
                }
            }
            (7, 0) => follow(c, OSPKE, cr4(Cr4::PKE)),
            (0xd, 0 | 1) if self.features.xcr0 != 0 => {
                let switched = vendor.switched(state);
                let (xcr0, xss) = (switched.xcr0, switched.xss);
                *b = match index {
                    0 => self.table.xsave_size(xcr0, false),
                    _ => self.table.xsave_size(xcr0 | xss, true),
                };
            }
            _ => {}
        }
    }
}
