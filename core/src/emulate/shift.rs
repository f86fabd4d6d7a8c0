//! Shifts and rotations, bit by bit: the least code, for what hardly ever meets a device.
//!
//! Source: Intel SDM volume 2, "RCL/RCR/ROL/ROR—Rotate", "SAL/SAR/SHL/SHR—Shift", "SHLD", "SHRD".
use super::alu::{CF, OF, STATUS, result_flags, sign_bit, when};
use super::cpu::mask;

/// An operation of group 2 by its number there, or SHLD as 8 and SHRD as 9: then bits of `filler`
/// move in.
#[inline(never)]
pub(super) fn shift(
    number: u8,
    value: u64,
    count: u64,
    mut filler: u64,
    rflags: u64,
    size: u8,
) -> (u64, u64) {
    let count = count & if size == 8 { 63 } else { 31 };
    if count == 0 {
        return (value, rflags);
    }
    let top = sign_bit(size);
    let right = number & 1 != 0;
    // The bit that goes out, and the place where another comes in.
    let (first, last) = if right { (1, top) } else { (top, 1) };
    let mut carry = rflags & CF != 0;
    let mut result = value;
    for _ in 0..count {
        let out = result & first != 0;
        let comes = match number {
            0 | 1 => out,
            2 | 3 => carry,
            4..=6 => false,
            7 => result & top != 0,
            // What a count beyond a 16-bit operand does is not defined.
            _ => filler & first != 0,
        };
        if right {
            result >>= 1;
            filler >>= 1;
        } else {
            result <<= 1;
            filler <<= 1;
        }
        result = result & mask(size) | when(comes, last);
        carry = out;
    }
    // To the right it is the new sign against the old one; defined for a count of 1.
    let before = if right { result << 1 & top != 0 } else { carry };
    let overflow = (result & top != 0) != before;
    let changed = when(carry, CF) | when(overflow, OF);
    // Rotations leave the others alone.
    let flags = if number < 4 {
        rflags & !(CF | OF)
    } else {
        rflags & !STATUS | result_flags(result, size)
    };
    (result, flags | changed)
}
