//! What becomes of an instruction's operands: values in, values out.
use super::alu::{CF, OF, STATUS, ZF, apply, holds, result_flags, sign_extend, when};
use super::cpu::{Cpu, Stopped, mask};
use super::instruction::Map;
use super::machine::Machine;
use super::multiply::{divide, widen};
use super::op;
use super::operand::{Kind, Place};
use super::operation::Plan;
use super::shift::shift;
use crate::arch::Exception;
use crate::regs::Regs;

const AX: u8 = Regs::RAX as u8;
const CX: u8 = Regs::RCX as u8;
const DX: u8 = Regs::RDX as u8;
const BX: u8 = Regs::RBX as u8;

impl<M: Machine> Cpu<'_, M> {
    /// Makes the target's old value its new one, and changes the copy of the registers.
    #[inline(never)]
    pub(super) fn compute(
        &mut self,
        plan: &Plan,
        source: u128,
        target: &mut u128,
    ) -> Result<(), Stopped> {
        let (from, to) = (source as u64, *target as u64);
        let size = plan.target.size;
        let (number, a, b) = match plan.op {
            op::ADD..=op::CMP => (plan.op, to, from),
            op::TEST | op::TEST_TOO => (op::AND, to, from),
            op::COMPARE => (op::CMP, from, to),
            op::NEG => (op::SUB, 0, to),
            op::INC => (op::ADD, to, 1),
            op::DEC => (op::SUB, to, 1),
            op::EXCHANGE_ADD => (op::ADD, to, from),
            op::COMPARE_EXCHANGE => (op::CMP, self.register(AX, size), to),
            _ => return self.compute_other(plan, source, target),
        };
        let before = self.regs.rflags;
        let (mut value, mut flags) = apply(number, a, b, before, size);
        match plan.op {
            op::INC | op::DEC => flags = flags & !CF | before & CF,
            op::EXCHANGE_ADD => self.set_source(plan.source, to),
            op::COMPARE_EXCHANGE if a == b => value = from,
            op::COMPARE_EXCHANGE => {
                self.set_register(AX, size, to);
                // A register stays, with its upper half; memory is written in any case.
                self.keep_target = plan.target.kind == Kind::Register;
                value = to;
            }
            _ => {}
        }
        self.regs.rflags = flags;
        *target = value.into();
        Ok(())
    }

    /// The same for what is not of group 1 or like it.
    fn compute_other(
        &mut self,
        plan: &Plan,
        source: u128,
        target: &mut u128,
    ) -> Result<(), Stopped> {
        let (from, to) = (source as u64, *target as u64);
        let size = plan.target.size;
        let opcode = self.instruction.opcode;
        let before = self.regs.rflags;
        let bits = u32::from(size).wrapping_mul(8);
        let mut flags = before;
        let value = match plan.op {
            op::MOVE => {
                *target = source;
                return Ok(());
            }
            op::LOW_HALF => {
                *target = *target >> 64 << 64 | u128::from(from);
                return Ok(());
            }
            op::HIGH_HALF => {
                *target = u128::from(to) | u128::from(from) << 64;
                return Ok(());
            }
            op::COMPARE_EXCHANGE_PAIR => {
                let half = size / 2;
                let equal = self.pair(AX, DX, half) == *target;
                if equal {
                    *target = self.pair(BX, CX, half);
                } else {
                    self.set_pair(*target, half);
                }
                self.regs.rflags = before & !ZF | when(equal, ZF);
                return Ok(());
            }
            op::FROM_HIGH_HALF => (source >> 64) as u64,
            op::NOT => !to,
            op::MOVE_SIGNED => sign_extend(from, plan.source.size),
            op::MOVE_REVERSED => from.swap_bytes() >> (bits.wrapping_neg() & 63),
            op::EXCHANGE => {
                self.set_source(plan.source, to);
                from
            }
            op::BIT_TEST..=op::BIT_COMPLEMENT => {
                let bit = 1 << (from & u64::from(bits.wrapping_sub(1) & 63));
                flags = before & !CF | when(to & bit != 0, CF);
                match plan.op {
                    op::BIT_TEST => to,
                    op::BIT_SET => to | bit,
                    op::BIT_RESET => to & !bit,
                    _ => to ^ bit,
                }
            }
            op::SHIFT..=op::SHIFT_DOUBLE_RIGHT => {
                let count = match plan.op {
                    op::SHIFT_DOUBLE_LEFT | op::SHIFT_DOUBLE_RIGHT if opcode & 1 == 0 => {
                        self.instruction.immediate
                    }
                    op::SHIFT_DOUBLE_LEFT | op::SHIFT_DOUBLE_RIGHT => self.register(CX, 1),
                    _ => from,
                };
                let number = plan.op - op::SHIFT;
                let (value, new) = shift(number, to, count, from, before, size);
                flags = new;
                value
            }
            op::MULTIPLY | op::MULTIPLY_SIGNED | op::MULTIPLY_SHORT => {
                let signed = plan.op != op::MULTIPLY;
                let (a, b) = match (plan.op, self.instruction.map) {
                    (op::MULTIPLY_SHORT, Map::Primary) => (self.instruction.immediate, from),
                    (op::MULTIPLY_SHORT, _) => (to, from),
                    _ => (self.register(AX, size), to),
                };
                let product =
                    widen(a & mask(size), signed, size).wrapping_mul(widen(b, signed, size));
                let low = product as u64 & mask(size);
                // Whether the upper half matters.
                let fits = widen(low, signed, size) == product;
                flags = before & !STATUS | result_flags(low, size) & !ZF | when(!fits, CF | OF);
                if plan.op != op::MULTIPLY_SHORT {
                    self.set_pair(product, size);
                }
                low
            }
            op::DIVIDE | op::DIVIDE_SIGNED => {
                let dividend = self.pair(AX, DX, size);
                let (low, high) = (dividend as u64 & mask(size), (dividend >> bits) as u64);
                let signed = plan.op == op::DIVIDE_SIGNED;
                let Some((quotient, remainder)) = divide(low, high, to, signed, size) else {
                    return Err(self.raise(Exception::plain(Exception::DE)));
                };
                let low = u128::from(quotient & mask(size));
                self.set_pair(low | u128::from(remainder) << bits, size);
                0
            }
            op::SET => holds(opcode, before).into(),
            op::CONDITIONAL_MOVE if holds(opcode, before) => from,
            op::SCAN_FORWARD | op::SCAN_REVERSE => {
                flags = before & !ZF | when(from == 0, ZF);
                // Without a bit the target stays, with its upper half.
                self.keep_target = from == 0;
                let bit = if plan.op == op::SCAN_FORWARD {
                    from.trailing_zeros()
                } else {
                    63_u32.wrapping_sub(from.leading_zeros())
                };
                bit.into()
            }
            op::TRAILING_ZEROS | op::LEADING_ZEROS => {
                let zeros = if plan.op == op::TRAILING_ZEROS {
                    from.trailing_zeros().min(bits)
                } else {
                    from.leading_zeros().wrapping_add(bits).wrapping_sub(64)
                };
                flags = before & !STATUS | when(from == 0, CF) | when(zeros == 0, ZF);
                zeros.into()
            }
            op::POP_COUNT => {
                flags = before & !STATUS | when(from == 0, ZF);
                from.count_ones().into()
            }
            op::CALL => {
                let back = self.next;
                self.branch(from, size)?;
                back
            }
            op::JUMP => {
                self.branch(from, size)?;
                0
            }
            _ => to,
        };
        self.regs.rflags = flags;
        *target = value.into();
        Ok(())
    }

    fn set_source(&mut self, source: Place, value: u64) {
        self.set_register(source.value as u8, source.size, value);
    }

    /// Two registers as the lower and the upper half of one; AX for halves of one byte.
    fn pair(&self, low: u8, high: u8, half: u8) -> u128 {
        if half == 1 {
            return self.register(AX, 2).into();
        }
        let bits = u32::from(half) * 8;
        u128::from(self.register(low, half)) | u128::from(self.register(high, half)) << (bits & 127)
    }

    /// Sets RDX:RAX, or AX.
    fn set_pair(&mut self, value: u128, half: u8) {
        if half == 1 {
            return self.set_register(AX, 2, value as u64);
        }
        let bits = u32::from(half) * 8;
        self.set_register(AX, half, value as u64);
        self.set_register(DX, half, (value >> (bits & 127)) as u64);
    }
}
