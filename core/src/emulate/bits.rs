//! Single bits and how many there are.
use super::alu::{STATUS, when};
use super::cpu::mask;
use crate::arch::Rflags;

const CF: u64 = Rflags::CF.bits();
const ZF: u64 = Rflags::ZF.bits();

/// BT, BTS, BTR and BTC, 0 to 3: CF gets the bit.
pub(super) fn test(number: u8, value: u64, bit: u64, rflags: u64, size: u8) -> (u64, u64) {
    let bit = 1 << (bit & (u64::from(size) * 8).saturating_sub(1) & 63);
    let new = match number {
        0 => value,
        1 => value | bit,
        2 => value & !bit,
        _ => value ^ bit,
    };
    (new, rflags & !CF | when(value & bit != 0, CF))
}

/// The lowest or highest bit that is set.
pub(super) fn scan(value: u64, reverse: bool) -> Option<u64> {
    if value == 0 {
        return None;
    }
    let bit = if reverse {
        value.ilog2()
    } else {
        value.trailing_zeros()
    };
    Some(u64::from(bit))
}

/// Zeros below the lowest bit that is set.
pub(super) fn trailing(value: u64, size: u8) -> u32 {
    value.trailing_zeros().min(u32::from(size) * 8)
}

/// Zeros above the highest bit that is set.
pub(super) fn leading(value: u64, size: u8) -> u32 {
    let unused = 64_u32.saturating_sub(u32::from(size) * 8);
    (value & mask(size)).leading_zeros().saturating_sub(unused)
}

/// The result of TZCNT and LZCNT, and CF and ZF for it.
pub(super) fn count(zeros: u32, rflags: u64, size: u8) -> (u64, u64) {
    let all = zeros == u32::from(size) * 8;
    let flags = when(all, CF) | when(zeros == 0, ZF);
    (u64::from(zeros), rflags & !STATUS | flags)
}
