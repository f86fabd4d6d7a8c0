//! Arithmetic and its flags.
//!
//! Source: Intel SDM volume 1, "EFLAGS Register"; the instructions' pages in volume 2.
use super::cpu::mask;
use super::op;
use crate::arch::Rflags;

pub(super) const CF: u64 = Rflags::CF.bits();
const PF: u64 = Rflags::PF.bits();
const AF: u64 = Rflags::AF.bits();
pub(super) const ZF: u64 = Rflags::ZF.bits();
const SF: u64 = Rflags::SF.bits();
pub(super) const OF: u64 = Rflags::OF.bits();

/// The flags that arithmetic sets.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The result and the flags of one of the eight operations of group 1. The operands have no bits
/// beyond `size`.
#[inline(never)]
pub(super) fn apply(number: u8, a: u64, b: u64, rflags: u64, size: u8) -> (u64, u64) {
    let carry = match number {
        op::ADC | op::SBB => rflags & CF,
        _ => 0,
    };
    // A difference is a sum of the complement, with all carries the other way round.
    let turned = match number {
        op::SBB | op::SUB | op::CMP => u64::MAX,
        _ => 0,
    };
    let b = b ^ turned;
    let (result, sums) = match number {
        op::OR => (a | b, 0),
        op::AND => (a & b, 0),
        op::XOR => (a ^ b, 0),
        _ => (a.wrapping_add(b).wrapping_add(carry ^ turned & 1), u64::MAX),
    };
    // The carries out of each bit.
    let carries = (a & b | (a | b) & !result) ^ turned;
    let overflows = (a ^ result) & (b ^ result) & sums;
    let sign = sign_bit(size);
    let flags = result_flags(result, size)
        | when(carries & sums & sign != 0, CF)
        | when(carries & sums & 8 != 0, AF)
        | when(overflows & sign != 0, OF);
    (result & mask(size), rflags & !STATUS | flags)
}

/// The highest bit of an operand.
pub(super) fn sign_bit(size: u8) -> u64 {
    mask(size) ^ mask(size) >> 1
}

/// The low `size` bytes, 1 to 8, as a signed number of eight.
#[inline(never)]
pub(super) fn sign_extend(value: u64, size: u8) -> u64 {
    let unused = u32::from(size).wrapping_mul(8).wrapping_neg() & 63;
    ((value << unused) as i64 >> unused).cast_unsigned()
}

/// SF, ZF and PF of a result.
#[inline(never)]
pub(super) fn result_flags(result: u64, size: u8) -> u64 {
    let result = result & mask(size);
    let even = (result as u8).count_ones() & 1 == 0;
    when(result & sign_bit(size) != 0, SF) | when(result == 0, ZF) | when(even, PF)
}

/// The flag if the condition holds.
pub(super) fn when(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

/// Whether a condition, as opcodes number them, holds.
pub(super) fn holds(condition: u8, rflags: u64) -> bool {
    let is = |flag| rflags & flag != 0;
    let less = is(SF) != is(OF);
    let result = match condition >> 1 & 7 {
        0 => is(OF),
        1 => is(CF),
        2 => is(ZF),
        3 => is(CF | ZF),
        4 => is(SF),
        5 => is(PF),
        6 => less,
        _ => less || is(ZF),
    };
    result != (condition & 1 != 0)
}
