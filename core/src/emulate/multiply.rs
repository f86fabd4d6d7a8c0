//! Products and quotients.
use super::alu::{sign_bit, sign_extend};
use super::cpu::mask;

/// A number with twice the bits and more.
pub(super) fn widen(value: u64, signed: bool, size: u8) -> u128 {
    if signed {
        i128::from(sign_extend(value, size).cast_signed()).cast_unsigned()
    } else {
        u128::from(value)
    }
}

/// The quotient and the remainder of `high`:`low`, each of `size` bytes; [`None`] where there is
/// none, or none of this size. By subtraction: no library routine, for what hardly ever happens.
#[inline(never)]
pub(super) fn divide(low: u64, high: u64, by: u64, signed: bool, size: u8) -> Option<(u64, u64)> {
    let negative = |value| signed && value & sign_bit(size) != 0;
    let is_negative = negative(high);
    let turns = is_negative != negative(by);
    // Their magnitudes.
    let by = if negative(by) {
        by.wrapping_neg() & mask(size)
    } else {
        by
    };
    let bits = u32::from(size) * 8;
    let dividend = widen(high, signed, size) << (bits & 127) | u128::from(low);
    let dividend = if is_negative {
        dividend.wrapping_neg()
    } else {
        dividend
    };
    let (mut rest, mut quotient) = ((dividend >> 64) as u64, dividend as u64);
    if rest >= by {
        return None;
    }
    // The dividend leaves to the left what the quotient enters from the right.
    for _ in 0..64 {
        let carried = rest >> 63 != 0;
        rest = rest << 1 | quotient >> 63;
        quotient <<= 1;
        if carried || rest >= by {
            rest = rest.wrapping_sub(by);
            quotient |= 1;
        }
    }
    let most = if signed {
        (mask(size) >> 1).wrapping_add(turns.into())
    } else {
        mask(size)
    };
    let turned = |turn: bool, value: u64| if turn { value.wrapping_neg() } else { value };
    (quotient <= most).then_some((turned(turns, quotient), turned(is_negative, rest)))
}
