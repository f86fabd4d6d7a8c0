//! What an instruction does, to which operands.
use super::alu::Alu;
use super::cpu::Cpu;
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::Stop;
use crate::arch::{Exception, Rflags};
use crate::regs::Regs;

const AX: u8 = Regs::RAX as u8;
const CX: u8 = Regs::RCX as u8;

/// What is done with the source and the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Nothing,
    Alu(Alu),
    /// The target is subtracted from the source, as strings do it.
    Compare,
    Test,
    Not,
    Neg,
    Inc,
    Dec,
    Move,
    MoveSigned,
    MoveReversed,
    Exchange,
    ExchangeAdd,
    CompareExchange,
    CompareExchangePair,
    /// 0 test, 1 set, 2 reset, 3 complement.
    Bit(u8),
    /// As group 2 numbers them.
    Shift(u8),
    ShiftDouble {
        right: bool,
    },
    /// RAX by the source.
    Multiply {
        signed: bool,
    },
    /// The target by the source, or the source by an immediate.
    MultiplySigned {
        immediate: bool,
    },
    Divide {
        signed: bool,
    },
    Set,
    ConditionalMove,
    BitScan {
        reverse: bool,
    },
    TrailingZeros,
    LeadingZeros,
    PopCount,
    Call,
    Jump,
    /// A move to half of a vector register, or from it.
    LowHalf,
    HighHalf,
    FromHighHalf,
}

/// An operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    None,
    Register(u8),
    Immediate(u64),
    /// At a linear address, checked against its segment.
    Memory(u64),
    Vector(u8),
    Port(u16),
}

/// What happens to the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Read,
    Write,
    Modify,
}

/// An operation with its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) op: Op,
    pub(super) source: Place,
    pub(super) source_size: u8,
    pub(super) target: Place,
    pub(super) target_size: u8,
    pub(super) using: Use,
}

/// Whether an instruction uses the stack, and ES, without saying so.
pub(super) fn implied_segments(instruction: &Instruction) -> (bool, bool) {
    let opcode = instruction.opcode;
    match instruction.map {
        Map::Primary => match opcode {
            0x50..=0x5f | 0x68 | 0x6a | 0x8f | 0x9c | 0xc2 | 0xc3 | 0xe8 => (true, false),
            0xff => (matches!(instruction.extension(), 2 | 6), false),
            _ => (false, super::strings::is_string(instruction)),
        },
        _ => (false, false),
    }
}

/// Finds the operands of an instruction, moves the stack pointer, and checks the operands in
/// memory against their segments.
// Once in the module, not once per vendor.
#[inline(never)]
pub(super) fn plan(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let plan = match cpu.instruction.map {
        Map::Primary => primary(cpu),
        Map::Secondary => super::operation_two::secondary(cpu),
        Map::Third38 => super::operation_more::third_38(cpu),
        Map::Third3A | Map::Extended => Err(Stop::Unsupported),
    }?;
    if cpu.instruction.has(Prefixes::LOCK) && !may_lock(&plan) {
        return Err(Stop::Exception(Exception::invalid_opcode()));
    }
    Ok(plan)
}

fn may_lock(plan: &Plan) -> bool {
    let op = matches!(
        plan.op,
        Op::Alu(_)
            | Op::Not
            | Op::Neg
            | Op::Inc
            | Op::Dec
            | Op::Bit(_)
            | Op::Exchange
            | Op::ExchangeAdd
            | Op::CompareExchange
            | Op::CompareExchangePair
    );
    op && plan.using == Use::Modify && matches!(plan.target, Place::Memory(_))
}

impl Cpu<'_> {
    /// The operand that ModRM's rm field names.
    #[inline(never)]
    pub(super) fn rm(&self, size: u8, write: bool) -> Result<Place, Stop> {
        match &self.instruction.memory {
            Some(memory) => {
                let linear = self.linear(self.offset(memory), size, write)?;
                Ok(Place::Memory(linear))
            }
            None => Ok(Place::Register(self.instruction.rm)),
        }
    }

    #[inline(never)]
    pub(super) fn reg(&self) -> Place {
        Place::Register(self.instruction.reg)
    }

    /// The target is the rm operand.
    pub(super) fn to_rm(&self, op: Op, using: Use, source: Place) -> Result<Plan, Stop> {
        let size = self.instruction.operand_size;
        let target = self.rm(size, using != Use::Read)?;
        Ok(same(op, using, target, source, size))
    }

    /// The target is the reg operand and the source the rm operand.
    pub(super) fn to_reg(&self, op: Op, using: Use) -> Result<Plan, Stop> {
        let size = self.instruction.operand_size;
        Ok(same(op, using, self.reg(), self.rm(size, false)?, size))
    }

    /// The same with a smaller source.
    pub(super) fn extend(&self, op: Op, source_size: u8) -> Result<Plan, Stop> {
        let target_size = self.instruction.operand_size;
        Ok(Plan {
            op,
            source: self.rm(source_size, false)?,
            source_size,
            target: self.reg(),
            target_size,
            using: Use::Write,
        })
    }

    /// The target is memory only, not a register.
    pub(super) fn only_memory(&self) -> Result<(), Stop> {
        if self.instruction.memory.is_none() {
            return Err(Stop::Exception(Exception::invalid_opcode()));
        }
        Ok(())
    }

    #[inline(never)]
    fn push_plan(&mut self, op: Op, source: Place) -> Result<Plan, Stop> {
        let size = self.instruction.operand_size;
        let target = Place::Memory(self.push(size)?);
        Ok(same(op, Use::Write, target, source, size))
    }
}

/// Both operands have one size.
#[inline(never)]
pub(super) fn same(op: Op, using: Use, target: Place, source: Place, size: u8) -> Plan {
    Plan {
        op,
        source,
        source_size: size,
        target,
        target_size: size,
        using,
    }
}

/// Nothing to do.
pub(super) fn nothing() -> Plan {
    same(Op::Nothing, Use::Read, Place::None, Place::None, 1)
}

fn primary(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    let opcode = instruction.opcode;
    let size = instruction.operand_size;
    let immediate = Place::Immediate(instruction.immediate);
    let accumulator = Place::Register(AX);
    match opcode {
        0x00..=0x3f => {
            let alu = Alu::from_number(opcode >> 3);
            let using = if alu == Alu::Cmp {
                Use::Read
            } else {
                Use::Modify
            };
            match opcode & 7 {
                0 | 1 => cpu.to_rm(Op::Alu(alu), using, cpu.reg()),
                2 | 3 => cpu.to_reg(Op::Alu(alu), using),
                4 | 5 => Ok(same(Op::Alu(alu), using, accumulator, immediate, size)),
                _ => Err(Stop::Unsupported),
            }
        }
        0x40..=0x4f => {
            let op = if opcode & 8 == 0 { Op::Inc } else { Op::Dec };
            let target = Place::Register(opcode & 7);
            Ok(same(op, Use::Modify, target, Place::None, size))
        }
        0x50..=0x57 => {
            // PUSH of the stack pointer pushes its old value.
            let value = cpu.register(instruction.reg, size);
            cpu.push_plan(Op::Move, Place::Immediate(value))
        }
        0x58..=0x5f => {
            let source = Place::Memory(cpu.pop(size, 0)?);
            Ok(same(Op::Move, Use::Write, cpu.reg(), source, size))
        }
        0x63 if cpu.long => cpu.extend(Op::MoveSigned, size.min(4)),
        0x68 | 0x6a => cpu.push_plan(Op::Move, immediate),
        0x69 | 0x6b => cpu.to_reg(Op::MultiplySigned { immediate: true }, Use::Write),
        0x80..=0x83 => {
            let alu = Alu::from_number(instruction.extension());
            let using = if alu == Alu::Cmp {
                Use::Read
            } else {
                Use::Modify
            };
            cpu.to_rm(Op::Alu(alu), using, immediate)
        }
        0x84 | 0x85 => cpu.to_rm(Op::Test, Use::Read, cpu.reg()),
        0x86 | 0x87 => cpu.to_rm(Op::Exchange, Use::Modify, cpu.reg()),
        0x88 | 0x89 => cpu.to_rm(Op::Move, Use::Write, cpu.reg()),
        0x8a | 0x8b => cpu.to_reg(Op::Move, Use::Write),
        0x8c => {
            let Some(selector) = cpu.selector else {
                return Err(Stop::Exception(Exception::invalid_opcode()));
            };
            // In memory it has two bytes, whatever the operand size is.
            let size = if instruction.memory.is_some() {
                2
            } else {
                size
            };
            let target = cpu.rm(size, true)?;
            let source = Place::Immediate(selector.into());
            Ok(same(Op::Move, Use::Write, target, source, size))
        }
        0x8d => {
            cpu.only_memory()?;
            let offset = instruction.memory.map_or(0, |memory| cpu.offset(&memory));
            let source = Place::Immediate(offset);
            Ok(same(Op::Move, Use::Write, cpu.reg(), source, size))
        }
        0x8f if instruction.extension() == 0 => {
            let source = Place::Memory(cpu.pop(size, 0)?);
            cpu.to_rm(Op::Move, Use::Write, source)
        }
        0x90 if instruction.reg == 0 => Ok(nothing()),
        0x90..=0x97 => Ok(same(
            Op::Exchange,
            Use::Modify,
            cpu.reg(),
            accumulator,
            size,
        )),
        0x9c if cpu.may_push_flags() => {
            let hidden = Rflags::RF.bits() | Rflags::VM.bits();
            let value = cpu.regs.rflags & !hidden;
            cpu.push_plan(Op::Move, Place::Immediate(value))
        }
        0xa0 | 0xa1 => {
            let source = cpu.rm(size, false)?;
            Ok(same(Op::Move, Use::Write, accumulator, source, size))
        }
        0xa2 | 0xa3 => cpu.to_rm(Op::Move, Use::Write, accumulator),
        0xa8 | 0xa9 => Ok(same(Op::Test, Use::Read, accumulator, immediate, size)),
        0xb0..=0xbf => Ok(same(Op::Move, Use::Write, cpu.reg(), immediate, size)),
        0xc0 | 0xc1 | 0xd0..=0xd3 => {
            let count = match opcode {
                0xc0 | 0xc1 => instruction.immediate,
                0xd0 | 0xd1 => 1,
                _ => cpu.register(CX, 1),
            };
            let op = Op::Shift(instruction.extension());
            cpu.to_rm(op, Use::Modify, Place::Immediate(count))
        }
        0xc2 | 0xc3 => {
            let source = Place::Memory(cpu.pop(size, instruction.immediate)?);
            Ok(same(Op::Jump, Use::Read, Place::None, source, size))
        }
        0xc6 | 0xc7 if instruction.extension() == 0 => cpu.to_rm(Op::Move, Use::Write, immediate),
        // XLAT.
        0xd7 => {
            let table = cpu.register(Regs::RBX as u8, 8);
            let offset = table.wrapping_add(cpu.register(AX, 1));
            let offset = offset & super::cpu::mask(instruction.address_size);
            let source = Place::Memory(cpu.linear(offset, 1, false)?);
            Ok(same(Op::Move, Use::Write, accumulator, source, 1))
        }
        0xe4..=0xe7 | 0xec..=0xef => {
            let size = size.min(4);
            let port = match opcode & 8 {
                0 => (instruction.immediate & 0xff) as u16,
                _ => cpu.register(Regs::RDX as u8, 2) as u16,
            };
            let (target, source) = match opcode & 2 {
                0 => (accumulator, Place::Port(port)),
                _ => (Place::Port(port), accumulator),
            };
            Ok(same(Op::Move, Use::Write, target, source, size))
        }
        0xe8 => {
            let to = cpu.next.wrapping_add(instruction.immediate);
            cpu.push_plan(Op::Call, Place::Immediate(to))
        }
        0xf6 | 0xf7 => group_3(cpu),
        0xfe | 0xff => group_5(cpu),
        _ => Err(Stop::Unsupported),
    }
}

fn group_3(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let size = cpu.instruction.operand_size;
    let source = |op| {
        let source = cpu.rm(size, false)?;
        Ok(same(op, Use::Read, Place::None, source, size))
    };
    match cpu.instruction.extension() {
        0 | 1 => {
            let immediate = Place::Immediate(cpu.instruction.immediate);
            cpu.to_rm(Op::Test, Use::Read, immediate)
        }
        2 => cpu.to_rm(Op::Not, Use::Modify, Place::None),
        3 => cpu.to_rm(Op::Neg, Use::Modify, Place::None),
        4 => source(Op::Multiply { signed: false }),
        5 => source(Op::Multiply { signed: true }),
        6 => source(Op::Divide { signed: false }),
        _ => source(Op::Divide { signed: true }),
    }
}

fn group_5(cpu: &mut Cpu<'_>) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    let size = instruction.operand_size;
    match (instruction.extension(), instruction.opcode) {
        (0, _) => cpu.to_rm(Op::Inc, Use::Modify, Place::None),
        (1, _) => cpu.to_rm(Op::Dec, Use::Modify, Place::None),
        (2, 0xff) => {
            let source = cpu.rm(size, false)?;
            cpu.push_plan(Op::Call, source)
        }
        (4, 0xff) => {
            let source = cpu.rm(size, false)?;
            Ok(same(Op::Jump, Use::Read, Place::None, source, size))
        }
        (6, 0xff) => {
            let source = cpu.rm(size, false)?;
            let source = match source {
                Place::Register(number) => Place::Immediate(cpu.register(number, size)),
                other => other,
            };
            cpu.push_plan(Op::Move, source)
        }
        (7, _) | (2.., 0xfe) => Err(Stop::Exception(Exception::invalid_opcode())),
        _ => Err(Stop::Unsupported),
    }
}
