//! What a CPUID table says about the rest of the CPU.
use waterbear_hal::Hal;

use super::supported::{HostCpuid, leaf};
use super::{EXTENDED, Table};
use crate::arch::{Cr4, Efer};

/// What a CPU has, as far as the run loop asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// The bits of CR4 that may be set.
    pub cr4: Cr4,
    /// The bits of EFER that may be set.
    pub efer: Efer,
    /// The bits of XCR0 that may be set; 0 without XSAVE.
    pub xcr0: u64,
    /// How wide a physical address is, in bits.
    pub physical_bits: u32,
    /// IA32_TSC_AUX: RDTSCP or RDPID.
    pub tsc_aux: bool,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: bool,
    /// IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: bool,
}

/// What every CPU that can host guests has.
const CR4_ALWAYS: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT);

impl Features {
    /// Those of a guest without a table: what a CPU has that answers every question with zeros.
    pub const fn none() -> Self {
        Self {
            cr4: CR4_ALWAYS,
            efer: Efer::SCE,
            xcr0: 0,
            // Processors that do not say and do not have PAE.
            physical_bits: 32,
            tsc_aux: false,
            tsc_adjust: false,
            arch_capabilities: false,
        }
    }

    /// Those of a guest's table.
    pub fn of<H: Hal>(table: &Table<H>) -> Self {
        Self::read(&|function, index| table.answer(function, index))
    }

    /// Those that this machine can give a guest.
    pub fn of_host(host: &HostCpuid<'_>) -> Self {
        Self::read(&|function, index| leaf(host, function, index))
    }

    /// Those that both have.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            cr4: self.cr4 & other.cr4,
            efer: self.efer & other.efer,
            xcr0: self.xcr0 & other.xcr0,
            physical_bits: self.physical_bits.min(other.physical_bits),
            tsc_aux: self.tsc_aux && other.tsc_aux,
            tsc_adjust: self.tsc_adjust && other.tsc_adjust,
            arch_capabilities: self.arch_capabilities && other.arch_capabilities,
        }
    }

    /// The bits of a physical address that must be zero.
    pub fn reserved_address_bits(&self) -> u64 {
        u64::MAX.checked_shl(self.physical_bits).unwrap_or(0)
    }

    // Once, and not once for each who is asked.
    #[inline(never)]
    fn read(ask: &dyn Fn(u32, u32) -> [u32; 4]) -> Self {
        let [_, _, basic_c, basic_d] = ask(1, 0);
        let [_, seven_b, seven_c, seven_d] = ask(7, 0);
        let [_, _, _, extended_d] = ask(EXTENDED | 1, 0);
        let has = |register: u32, bit: u32| register >> bit & 1 != 0;
        // The bits of three registers, and which they stand for in CR4.
        const CR4_BITS: [(u8, u8, Cr4); 6] = [
            (0, 17, Cr4::PCIDE),
            (0, 26, Cr4::OSXSAVE),
            (1, 0, Cr4::FSGSBASE),
            (1, 7, Cr4::SMEP),
            (1, 20, Cr4::SMAP),
            (2, 2, Cr4::UMIP),
        ];
        let mut cr4 = CR4_ALWAYS;
        for (register, bit, stands_for) in CR4_BITS {
            let register = match register {
                0 => basic_c,
                1 => seven_b,
                _ => seven_c,
            };
            if has(register, bit.into()) {
                cr4 |= stands_for;
            }
        }
        let mut efer = Efer::SCE;
        for (bit, stands_for) in [
            (20, Efer::NXE),
            (25, Efer::FFXSR),
            (29, Efer::LME.union(Efer::LMA)),
        ] {
            if has(extended_d, bit) {
                efer |= stands_for;
            }
        }
        let [low, _, _, high] = ask(0xd, 0);
        let xcr0 = u64::from(high) << 32 | u64::from(low);
        let physical_bits = match ask(EXTENDED | 8, 0)[0] & 0xff {
            // Processors that do not say have 36 with PAE.
            0 if has(basic_d, 6) => 36,
            0 => 32,
            bits => bits.min(52),
        };
        Self {
            cr4,
            efer,
            xcr0: if has(basic_c, 26) { xcr0 } else { 0 },
            physical_bits,
            tsc_aux: has(extended_d, 27) || has(seven_c, 22),
            tsc_adjust: has(seven_b, 1),
            arch_capabilities: has(seven_d, 29),
        }
    }
}
