//! Products and quotients.
use super::alu::{STATUS, result_flags, sign_extend, when};
use super::cpu::mask;
use crate::arch::Rflags;

/// A product of twice the size of its factors.
pub(super) struct Product {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) rflags: u64,
}

/// The product; CF and OF say whether its upper half matters.
pub(super) fn wide(a: u64, b: u64, signed: bool, rflags: u64, size: u8) -> Product {
    let bits = u32::from(size) * 8;
    let widen = |value| -> u128 {
        if signed {
            i128::from(sign_extend(value, size).cast_signed()).cast_unsigned()
        } else {
            u128::from(value)
        }
    };
    let product = widen(a).wrapping_mul(widen(b));
    let low = product as u64 & mask(size);
    let high = (product >> bits) as u64 & mask(size);
    let fits = if signed {
        widen(low) == product
    } else {
        high == 0
    };
    let flags = when(!fits, Rflags::CF.bits() | Rflags::OF.bits());
    Product {
        low,
        high,
        rflags: rflags & !STATUS | result_flags(low, size) & !Rflags::ZF.bits() | flags,
    }
}

/// The quotient and the remainder; [`None`] where there is none, or none of this size.
pub(super) fn divide(low: u64, high: u64, by: u64, signed: bool, size: u8) -> Option<(u64, u64)> {
    let bits = u32::from(size) * 8;
    let dividend = u128::from(low) | u128::from(high) << bits;
    if !signed {
        let quotient = divide_128(dividend, u128::from(by))?;
        let remainder = dividend.wrapping_sub(quotient.wrapping_mul(u128::from(by)));
        let quotient = u64::try_from(quotient).ok()?;
        return (quotient <= mask(size)).then_some((quotient, remainder as u64));
    }
    let unused = 128_u32.saturating_sub(2 * bits);
    let dividend = (dividend << (unused & 127)).cast_signed() >> (unused & 127);
    let divisor = i128::from(sign_extend(by, size).cast_signed());
    let size_of = divide_128(dividend.unsigned_abs(), divisor.unsigned_abs())?;
    let negative = (dividend < 0) != (divisor < 0);
    let quotient = if negative {
        size_of.wrapping_neg()
    } else {
        size_of
    };
    let remainder = dividend
        .cast_unsigned()
        .wrapping_sub(quotient.wrapping_mul(divisor.cast_unsigned()));
    let short = sign_extend(quotient as u64 & mask(size), size).cast_signed();
    // The quotient of the magnitudes may not have a sign yet to be extended.
    let fits = i128::from(short) == quotient.cast_signed();
    fits.then_some((quotient as u64 & mask(size), remainder as u64 & mask(size)))
}

/// Division by subtraction: no library routine, for what hardly ever happens.
fn divide_128(dividend: u128, by: u128) -> Option<u128> {
    if by == 0 {
        return None;
    }
    let (mut quotient, mut rest) = (0_u128, 0_u128);
    for bit in (0..128).rev() {
        let carried = rest >> 127 != 0;
        rest = rest << 1 | dividend >> bit & 1;
        if carried || rest >= by {
            rest = rest.wrapping_sub(by);
            quotient |= 1 << bit;
        }
    }
    Some(quotient)
}
