//! What the instructions behind 0F do.
use super::alu::sign_extend;
use super::cpu::Cpu;
use super::instruction::Prefixes;
use super::machine::Stop;
use super::operation::{Op, Place, Plan, Use, nothing, same};
use crate::arch::Exception;

/// Finds the operands of an instruction in the map of two-byte opcodes.
pub(super) fn secondary(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    let repeat = instruction.has(Prefixes::REP);
    let plain = !repeat && !instruction.has(Prefixes::REPNE);
    let immediate = Place::Immediate(instruction.immediate);
    match instruction.opcode {
        // Hints have no operand to look at.
        0x0d | 0x18..=0x1f => Ok(nothing()),
        // CLFLUSH, CLFLUSHOPT and CLWB.
        0xae if instruction.memory.is_some() && plain && instruction.extension() >= 6 => {
            let operand = instruction.has(Prefixes::OPERAND);
            if instruction.extension() == 6 && !operand {
                return Err(Stop::Unsupported);
            }
            cpu.rm(1, false)?;
            Ok(nothing())
        }
        0x40..=0x4f => cpu.to_reg(Op::ConditionalMove, Use::Modify),
        0x90..=0x9f => cpu.to_rm(Op::Set, Use::Write, Place::None),
        0xa3 => bit(cpu, 0),
        0xab => bit(cpu, 1),
        0xb3 => bit(cpu, 2),
        0xbb => bit(cpu, 3),
        0xba if instruction.extension() >= 4 => {
            let number = instruction.extension() & 3;
            let using = if number == 0 { Use::Read } else { Use::Modify };
            cpu.to_rm(Op::Bit(number), using, immediate)
        }
        0xa4 | 0xa5 | 0xac | 0xad => {
            let right = instruction.opcode & 8 != 0;
            cpu.to_rm(Op::ShiftDouble { right }, Use::Modify, cpu.reg())
        }
        0xaf => cpu.to_reg(Op::MultiplySigned { immediate: false }, Use::Modify),
        0xb0 | 0xb1 => cpu.to_rm(Op::CompareExchange, Use::Modify, cpu.reg()),
        0xb6 => cpu.extend(Op::Move, 1),
        0xb7 => cpu.extend(Op::Move, 2),
        0xbe => cpu.extend(Op::MoveSigned, 1),
        0xbf => cpu.extend(Op::MoveSigned, 2),
        0xb8 if repeat => {
            if !cpu.has_feature {
                return Err(Stop::Exception(Exception::invalid_opcode()));
            }
            cpu.to_reg(Op::PopCount, Use::Write)
        }
        0xbc if repeat && cpu.has_feature => cpu.to_reg(Op::TrailingZeros, Use::Write),
        0xbd if repeat && cpu.has_feature => cpu.to_reg(Op::LeadingZeros, Use::Write),
        0xbc => cpu.to_reg(Op::BitScan { reverse: false }, Use::Write),
        0xbd => cpu.to_reg(Op::BitScan { reverse: true }, Use::Write),
        0xc0 | 0xc1 => cpu.to_rm(Op::ExchangeAdd, Use::Modify, cpu.reg()),
        0xc3 if plain => {
            cpu.only_memory()?;
            cpu.to_rm(Op::Move, Use::Write, cpu.reg())
        }
        0xc7 if instruction.extension() == 1 && instruction.memory.is_some() => {
            let size = if instruction.operand_size == 8 { 16 } else { 8 };
            let target = cpu.rm(size, true)?;
            if let (16, Place::Memory(linear)) = (size, target)
                && linear % 16 != 0
            {
                return Err(cpu.fault(Exception::GP));
            }
            Ok(same(
                Op::CompareExchangePair,
                Use::Modify,
                target,
                Place::None,
                size,
            ))
        }
        _ => super::operation_more::vector(cpu),
    }
}

/// A bit whose number is in a register: in memory it counts from the operand's address on, in both
/// directions.
fn bit(cpu: &mut Cpu<'_>, number: u8) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    let size = instruction.operand_size;
    let using = if number == 0 { Use::Read } else { Use::Modify };
    let bit = cpu.register(instruction.reg, size);
    let target = match &instruction.memory {
        None => Place::Register(instruction.rm),
        Some(memory) => {
            // Whole operands: bytes, without the bits that count within one.
            let bytes = (sign_extend(bit, size) as i64 >> 3).cast_unsigned();
            let distance = bytes & !u64::from(size.saturating_sub(1));
            let offset = cpu.offset_by(memory, distance);
            Place::Memory(cpu.linear(offset, size, using != Use::Read)?)
        }
    };
    Ok(same(
        Op::Bit(number),
        using,
        target,
        Place::Immediate(bit),
        size,
    ))
}
