//! Shifts and rotations.
//!
//! Source: Intel SDM volume 2, "RCL/RCR/ROL/ROR—Rotate", "SAL/SAR/SHL/SHR—Shift", "SHLD", "SHRD".
use super::alu::{STATUS, result_flags, sign_bit, sign_extend, when};
use super::cpu::mask;
use crate::arch::Rflags;

const CF: u64 = Rflags::CF.bits();
const OF: u64 = Rflags::OF.bits();

/// An operation of group 2.
pub(super) fn shift(number: u8, value: u64, count: u64, rflags: u64, size: u8) -> (u64, u64) {
    let width = u32::from(size) * 8;
    let count = (count & if size == 8 { 63 } else { 31 }) as u32;
    if count == 0 {
        return (value, rflags);
    }
    match number & 7 {
        0..=3 => rotate(number, value, count, rflags, size),
        7 => {
            let signed = sign_extend(value, size) as i64;
            let last = signed >> (count - 1).min(63) & 1 != 0;
            let result = (signed >> count.min(63)) as u64 & mask(size);
            (result, shifted(result, last, false, rflags, size))
        }
        5 => {
            // At most 63.
            let last = value >> (count - 1) & 1 != 0;
            let result = value >> count;
            let overflow = value & sign_bit(size) != 0;
            (result, shifted(result, last, overflow, rflags, size))
        }
        _ => {
            let wide = u128::from(value) << count;
            let last = wide >> width & 1 != 0;
            let result = wide as u64 & mask(size);
            let overflow = (result & sign_bit(size) != 0) != last;
            (result, shifted(result, last, overflow, rflags, size))
        }
    }
}

fn shifted(result: u64, carry: bool, overflow: bool, rflags: u64, size: u8) -> u64 {
    rflags & !STATUS | result_flags(result, size) | when(carry, CF) | when(overflow, OF)
}

/// ROL, ROR, RCL, RCR: they set CF and OF only. The count is not 0.
fn rotate(number: u8, value: u64, count: u32, rflags: u64, size: u8) -> (u64, u64) {
    let through_carry = number & 2 != 0;
    let right = number & 1 != 0;
    let carry = rflags & CF;
    // Through the carry, CF is one bit more on top.
    let width = u32::from(size) * 8 + u32::from(through_carry);
    let ring = u128::from(value) | u128::from(if through_carry { carry } else { 0 }) << (width - 1);
    let ring = if through_carry {
        ring
    } else {
        u128::from(value)
    };
    let left = match (count.checked_rem(width).unwrap_or(0), right) {
        (0, _) => 0,
        (by, true) => width - by,
        (by, false) => by,
    };
    let turned = (ring << left | ring >> (width - left)) & ((1 << width) - 1);
    let result = turned as u64 & mask(size);
    let sign = result & sign_bit(size) != 0;
    let carry = match (through_carry, right) {
        (true, _) => turned >> (width - 1) & 1 != 0,
        (false, true) => sign,
        (false, false) => result & 1 != 0,
    };
    let overflow = if right {
        sign != (result & sign_bit(size) >> 1 != 0)
    } else {
        sign != carry
    };
    (
        result,
        rflags & !(CF | OF) | when(carry, CF) | when(overflow, OF),
    )
}

/// SHLD and SHRD: bits of `filler` move in.
pub(super) fn double(
    right: bool,
    value: u64,
    filler: u64,
    count: u64,
    rflags: u64,
    size: u8,
) -> (u64, u64) {
    let width = u32::from(size) * 8;
    let count = (count & if size == 8 { 63 } else { 31 }) as u32;
    if count == 0 {
        return (value, rflags);
    }
    // What a count beyond a 16-bit operand does is not defined.
    let (low, high) = if right {
        (value, filler)
    } else {
        (filler, value)
    };
    let ring = u128::from(low) | u128::from(high) << width;
    let (result, last) = if right {
        (ring >> count, ring >> (count - 1))
    } else {
        let back = (2 * width).saturating_sub(count);
        (ring << count >> width, ring >> back)
    };
    let (result, last) = (result as u64 & mask(size), last & 1 != 0);
    let sign = sign_bit(size);
    let overflow = (result ^ value) & sign != 0;
    (result, shifted(result, last, overflow, rflags, size))
}
