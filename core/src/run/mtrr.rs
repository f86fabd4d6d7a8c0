//! Memory-type range registers: kept, and without effect, because hardware combines the types of
//! the second-level tables with those of the guest's own.
//!
//! Source: Intel SDM volume 3, "Memory Type Range Registers (MTRRs)".
use super::cpuid::Features;
use super::msr::index::{MTRR_CAP, MTRR_DEFAULT};

/// Pairs of variable ranges.
const PAIRS: usize = 8;
/// The fixed ranges.
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
/// The first of the variable ranges: a base, then its mask.
const VARIABLE: u32 = 0x200;

const FIXED_AT: usize = 2 * PAIRS;
const DEFAULT_AT: usize = FIXED_AT + FIXED.len();
const CAP_AT: usize = DEFAULT_AT + 1;

/// Where a register is among those that are kept, if it is one of them.
pub(super) fn mtrr_place(index: u32) -> Option<usize> {
    match index {
        VARIABLE..0x210 => Some((index - VARIABLE) as usize),
        MTRR_DEFAULT => Some(DEFAULT_AT),
        MTRR_CAP => Some(CAP_AT),
        _ => FIXED
            .iter()
            .position(|&fixed| fixed == index)
            .map(|at| FIXED_AT + at),
    }
}

/// The registers.
pub(super) struct Mtrrs {
    values: [u64; CAP_AT],
}

impl Mtrrs {
    pub(super) fn new() -> Self {
        Self {
            values: [0; CAP_AT],
        }
    }

    pub(super) fn read(&self, place: usize) -> u64 {
        // Write-combining, fixed ranges, and so many pairs.
        const CAP: u64 = 0x500 | PAIRS as u64;
        self.values.get(place).copied().unwrap_or(CAP)
    }

    pub(super) fn write(&mut self, place: usize, value: u64, features: &Features) -> Option<()> {
        let is_type = |kind: u64| matches!(kind, 0 | 1 | 4 | 5 | 6);
        let high = features.reserved_address_bits();
        let valid = match place {
            // On, with fixed ranges, and a type.
            DEFAULT_AT => value & !0xcff == 0 && is_type(value & 0xff),
            FIXED_AT..DEFAULT_AT => value.to_le_bytes().iter().all(|&t| is_type(t.into())),
            at if at % 2 == 0 => value & (high | 0xf00) == 0 && is_type(value & 0xff),
            _ => value & (high | 0x7ff) == 0,
        };
        let slot = self.values.get_mut(place)?;
        if !valid {
            return None;
        }
        *slot = value;
        Some(())
    }
}
