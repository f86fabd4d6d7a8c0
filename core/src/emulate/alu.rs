//! Arithmetic and its flags.
//!
//! Source: Intel SDM volume 1, "EFLAGS Register"; the instructions' pages in volume 2.
use super::cpu::mask;
use crate::arch::Rflags;

const CF: u64 = Rflags::CF.bits();
const PF: u64 = Rflags::PF.bits();
const AF: u64 = Rflags::AF.bits();
const ZF: u64 = Rflags::ZF.bits();
const SF: u64 = Rflags::SF.bits();
const OF: u64 = Rflags::OF.bits();

/// The flags that arithmetic sets.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The eight operations that are numbered alike in opcodes and in group 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

impl Alu {
    pub(super) fn from_number(number: u8) -> Self {
        match number & 7 {
            0 => Alu::Add,
            1 => Alu::Or,
            2 => Alu::Adc,
            3 => Alu::Sbb,
            4 => Alu::And,
            5 => Alu::Sub,
            6 => Alu::Xor,
            _ => Alu::Cmp,
        }
    }

    /// The result and the flags. The operands have no bits beyond `size`.
    #[inline(never)]
    pub(super) fn apply(self, a: u64, b: u64, rflags: u64, size: u8) -> (u64, u64) {
        let carry = rflags & CF;
        match self {
            Alu::Add => add(a, b, 0, rflags, size),
            Alu::Adc => add(a, b, carry, rflags, size),
            Alu::Sub | Alu::Cmp => subtract(a, b, 0, rflags, size),
            Alu::Sbb => subtract(a, b, carry, rflags, size),
            Alu::And => logic(a & b, rflags, size),
            Alu::Or => logic(a | b, rflags, size),
            Alu::Xor => logic(a ^ b, rflags, size),
        }
    }
}

/// The highest bit of an operand.
pub(super) fn sign_bit(size: u8) -> u64 {
    mask(size) ^ mask(size) >> 1
}

/// The low `size` bytes, 1 to 8, as a signed number of eight.
#[inline(never)]
pub(super) fn sign_extend(value: u64, size: u8) -> u64 {
    let unused = 64_u32.saturating_sub(u32::from(size) * 8);
    // No bytes, no value.
    let shifted = value.checked_shl(unused).unwrap_or(0);
    (shifted as i64).checked_shr(unused).unwrap_or(0) as u64
}

/// SF, ZF and PF of a result.
#[inline(never)]
pub(super) fn result_flags(result: u64, size: u8) -> u64 {
    let result = result & mask(size);
    let even = (result as u8).count_ones().is_multiple_of(2);
    when(result & sign_bit(size) != 0, SF) | when(result == 0, ZF) | when(even, PF)
}

/// The flag if the condition holds.
pub(super) fn when(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

fn add(a: u64, b: u64, carry: u64, rflags: u64, size: u8) -> (u64, u64) {
    let result = a.wrapping_add(b).wrapping_add(carry) & mask(size);
    let carries = a & b | (a | b) & !result;
    let overflows = (a ^ result) & (b ^ result);
    (result, flags(result, carries, overflows, rflags, size))
}

fn subtract(a: u64, b: u64, borrow: u64, rflags: u64, size: u8) -> (u64, u64) {
    let result = a.wrapping_sub(b).wrapping_sub(borrow) & mask(size);
    let borrows = !a & b | (!a | b) & result;
    let overflows = (a ^ b) & (a ^ result);
    (result, flags(result, borrows, overflows, rflags, size))
}

/// The flags of a sum: `carries` are the carries out of each bit.
#[inline(never)]
fn flags(result: u64, carries: u64, overflows: u64, rflags: u64, size: u8) -> u64 {
    let sign = sign_bit(size);
    rflags & !STATUS
        | result_flags(result, size)
        | when(carries & sign != 0, CF)
        | when(carries & 8 != 0, AF)
        | when(overflows & sign != 0, OF)
}

fn logic(result: u64, rflags: u64, size: u8) -> (u64, u64) {
    (result, rflags & !STATUS | result_flags(result, size))
}

/// INC, or DEC: as ADD and SUB of 1, but CF stays.
pub(super) fn step(a: u64, down: bool, rflags: u64, size: u8) -> (u64, u64) {
    let (result, new) = if down {
        subtract(a, 1, 0, rflags, size)
    } else {
        add(a, 1, 0, rflags, size)
    };
    (result, new & !CF | rflags & CF)
}

/// Whether a condition, as opcodes number them, holds.
pub(super) fn holds(condition: u8, rflags: u64) -> bool {
    let is = |flag| rflags & flag != 0;
    let less = is(SF) != is(OF);
    let result = match condition >> 1 & 7 {
        0 => is(OF),
        1 => is(CF),
        2 => is(ZF),
        3 => is(CF) || is(ZF),
        4 => is(SF),
        5 => is(PF),
        6 => less,
        _ => less || is(ZF),
    };
    result != (condition & 1 != 0)
}
