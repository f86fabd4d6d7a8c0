//! What the rarer instructions do: byte-reversed and vector moves.
use super::cpu::Cpu;
use super::instruction::Prefixes;
use super::machine::Stop;
use super::operation::{Op, Place, Plan, Use, same};
use crate::arch::Exception;

/// MOVBE.
pub(super) fn third_38(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    if instruction.has(Prefixes::REPNE) || instruction.has(Prefixes::REP) {
        return Err(Stop::Unsupported);
    }
    if !matches!(instruction.opcode, 0xf0 | 0xf1) {
        return Err(Stop::Unsupported);
    }
    cpu.only_memory()?;
    if !cpu.has_feature {
        return Err(Stop::Exception(Exception::invalid_opcode()));
    }
    if instruction.opcode == 0xf0 {
        cpu.to_reg(Op::MoveReversed, Use::Write)
    } else {
        cpu.to_rm(Op::MoveReversed, Use::Write, cpu.reg())
    }
}

/// Plain loads and stores of vector registers.
pub(super) fn vector(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    let prefix = match instruction.prefixes & (Prefixes::REP | Prefixes::REPNE | Prefixes::OPERAND)
    {
        p if p.contains(Prefixes::REP) => 0xf3,
        p if p.contains(Prefixes::REPNE) => 0xf2,
        p if p.contains(Prefixes::OPERAND) => 0x66,
        _ => 0,
    };
    let Some(memory) = instruction.memory else {
        return Err(Stop::Unsupported);
    };
    let wide = if instruction.operand_size == 8 { 8 } else { 4 };
    // Bytes, whether it stores, whether it is aligned, and which half.
    let (size, store, aligned, op) = match (prefix, instruction.opcode) {
        (0 | 0x66, 0x10) | (0xf3, 0x6f) => (16, false, false, Op::Move),
        (0 | 0x66, 0x11) | (0xf3, 0x7f) => (16, true, false, Op::Move),
        (0xf3, 0x10) => (4, false, false, Op::Move),
        (0xf3, 0x11) => (4, true, false, Op::Move),
        (0xf2, 0x10) => (8, false, false, Op::Move),
        (0xf2, 0x11) => (8, true, false, Op::Move),
        (0 | 0x66, 0x12) => (8, false, false, Op::LowHalf),
        (0 | 0x66, 0x13) => (8, true, false, Op::Move),
        (0 | 0x66, 0x16) => (8, false, false, Op::HighHalf),
        (0 | 0x66, 0x17) => (8, true, false, Op::FromHighHalf),
        (0 | 0x66, 0x28) | (0x66, 0x6f) => (16, false, true, Op::Move),
        (0 | 0x66, 0x29 | 0x2b) | (0x66, 0x7f | 0xe7) => (16, true, true, Op::Move),
        (0x66, 0x6e) => (wide, false, false, Op::Move),
        (0x66, 0x7e) => (wide, true, false, Op::Move),
        (0xf3, 0x7e) => (8, false, false, Op::Move),
        (0x66, 0xd6) => (8, true, false, Op::Move),
        _ => return Err(Stop::Unsupported),
    };
    let linear = cpu.linear(cpu.offset(&memory), size, store)?;
    if aligned && linear % 16 != 0 {
        return Err(cpu.fault(Exception::GP));
    }
    let (register, memory) = (Place::Vector(instruction.reg), Place::Memory(linear));
    let using = if matches!(op, Op::LowHalf | Op::HighHalf) {
        Use::Modify
    } else {
        Use::Write
    };
    let (target, source) = if store {
        (memory, register)
    } else {
        (register, memory)
    };
    Ok(same(op, using, target, source, size))
}
