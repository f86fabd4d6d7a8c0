//! What becomes of an instruction's operands: values in, values out.
use super::alu::{self, Alu, holds, sign_extend};
use super::cpu::{Cpu, mask};
use super::machine::Stop;
use super::operation::{Op, Place, Plan};
use super::{bits, multiply, shift};
use crate::arch::{Exception, Rflags};
use crate::regs::Regs;

const AX: u8 = Regs::RAX as u8;
const CX: u8 = Regs::RCX as u8;
const DX: u8 = Regs::RDX as u8;
const BX: u8 = Regs::RBX as u8;

/// Computes the new value of the target from its old one and the source's, and changes the copy of
/// the registers.
// Once in the module, not once per vendor.
#[inline(never)]
pub(super) fn compute(
    cpu: &mut Cpu<'_>,
    plan: &Plan,
    source: [u64; 2],
    old: [u64; 2],
) -> Result<[u64; 2], Stop> {
    let [from, from_high] = source;
    let [to, to_high] = old;
    let size = plan.target_size;
    let rflags = cpu.regs.rflags;
    let (value, new_flags) = match plan.op {
        Op::Nothing => (to, rflags),
        Op::Alu(alu) => alu.apply(to, from, rflags, size),
        Op::Compare => Alu::Cmp.apply(from, to, rflags, size),
        Op::Test => Alu::And.apply(to, from, rflags, size),
        Op::Not => (!to & mask(size), rflags),
        Op::Neg => Alu::Sub.apply(0, to, rflags, size),
        Op::Inc => alu::step(to, false, rflags, size),
        Op::Dec => alu::step(to, true, rflags, size),
        Op::Move => return Ok(source),
        Op::MoveSigned => (sign_extend(from, plan.source_size), rflags),
        Op::MoveReversed => {
            let unused = 64_u32.saturating_sub(u32::from(size) * 8);
            (from.swap_bytes() >> (unused & 63), rflags)
        }
        Op::Exchange => {
            cpu.set_source(plan, to);
            (from, rflags)
        }
        Op::ExchangeAdd => {
            let (sum, flags) = Alu::Add.apply(to, from, rflags, size);
            cpu.set_source(plan, to);
            (sum, flags)
        }
        Op::CompareExchange => {
            let expected = cpu.register(AX, size);
            let (_, flags) = Alu::Cmp.apply(expected, to, rflags, size);
            if expected == to {
                (from, flags)
            } else {
                cpu.set_register(AX, size, to);
                // A register stays, with its upper half; memory is written in any case.
                cpu.keep_target = matches!(plan.target, Place::Register(_));
                (to, flags)
            }
        }
        Op::CompareExchangePair => return Ok(compare_exchange_pair(cpu, size, old)),
        Op::Bit(number) => bits::test(number, to, from, rflags, size),
        Op::Shift(number) => shift::shift(number, to, from, rflags, size),
        Op::ShiftDouble { right } => {
            let count = match cpu.instruction.opcode & 1 {
                0 => cpu.instruction.immediate,
                _ => cpu.register(CX, 1),
            };
            shift::double(right, to, from, count, rflags, size)
        }
        Op::Multiply { signed } => {
            let product = multiply::wide(cpu.register(AX, size), from, signed, rflags, size);
            cpu.set_pair(product.low, product.high, size);
            (0, product.rflags)
        }
        Op::MultiplySigned { immediate } => {
            let factor = if immediate {
                cpu.instruction.immediate
            } else {
                to
            };
            let product = multiply::wide(factor & mask(size), from, true, rflags, size);
            (product.low, product.rflags)
        }
        Op::Divide { signed } => {
            let (low, high) = cpu.pair(size);
            let result = multiply::divide(low, high, from, signed, size);
            let Some((quotient, remainder)) = result else {
                return Err(Stop::Exception(Exception::plain(Exception::DE)));
            };
            cpu.set_pair(quotient, remainder, size);
            (0, rflags)
        }
        Op::Set => (u64::from(holds(cpu.instruction.opcode, rflags)), rflags),
        Op::ConditionalMove => {
            let moves = holds(cpu.instruction.opcode, rflags);
            (if moves { from } else { to }, rflags)
        }
        Op::BitScan { reverse } => match bits::scan(from, reverse) {
            Some(bit) => (bit, rflags & !Rflags::ZF.bits()),
            None => {
                // The target stays, with its upper half.
                cpu.regs.rflags |= Rflags::ZF.bits();
                cpu.keep_target = true;
                return Ok(old);
            }
        },
        Op::TrailingZeros => bits::count(bits::trailing(from, size), rflags, size),
        Op::LeadingZeros => bits::count(bits::leading(from, size), rflags, size),
        Op::PopCount => (
            u64::from(from.count_ones()),
            rflags & !alu::STATUS | alu::when(from == 0, Rflags::ZF.bits()),
        ),
        Op::Call => {
            let back = cpu.next;
            cpu.branch(from, plan.target_size)?;
            (back, rflags)
        }
        Op::Jump => {
            cpu.branch(from, plan.source_size)?;
            (0, rflags)
        }
        Op::LowHalf => return Ok([from, to_high]),
        Op::HighHalf => return Ok([to, from]),
        Op::FromHighHalf => return Ok([from_high, 0]),
    };
    cpu.regs.rflags = new_flags;
    Ok([value, 0])
}

/// CMPXCHG8B and CMPXCHG16B.
fn compare_exchange_pair(cpu: &mut Cpu<'_>, size: u8, [low, high]: [u64; 2]) -> [u64; 2] {
    let half = size / 2;
    let joined = |low: u64, high: u64| match half {
        4 => [low | high << 32, 0],
        _ => [low, high],
    };
    let expected = joined(cpu.register(AX, half), cpu.register(DX, half));
    if expected == [low, high] {
        cpu.regs.rflags |= Rflags::ZF.bits();
        return joined(cpu.register(BX, half), cpu.register(CX, half));
    }
    cpu.regs.rflags &= !Rflags::ZF.bits();
    let (first, second) = match half {
        4 => (low & mask(4), low >> 32),
        _ => (low, high),
    };
    cpu.set_register(AX, half, first);
    cpu.set_register(DX, half, second);
    [low, high]
}

impl Cpu<'_> {
    fn set_source(&mut self, plan: &Plan, value: u64) {
        if let Place::Register(number) = plan.source {
            self.set_register(number, plan.source_size, value);
        }
    }

    /// RDX:RAX, or AX for bytes, as two halves.
    fn pair(&self, size: u8) -> (u64, u64) {
        if size == 1 {
            let ax = self.register(AX, 2);
            return (ax & 0xff, ax >> 8);
        }
        (self.register(AX, size), self.register(DX, size))
    }

    fn set_pair(&mut self, low: u64, high: u64, size: u8) {
        if size == 1 {
            self.set_register(AX, 2, low & 0xff | (high & 0xff) << 8);
        } else {
            self.set_register(AX, size, low);
            self.set_register(DX, size, high);
        }
    }
}
