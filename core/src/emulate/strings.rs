//! String instructions, with and without repetition.
//!
//! Source: Intel SDM volume 2, "REP/REPE/REPZ/REPNE/REPNZ—Repeat String Operation Prefix".
use super::cpu::Cpu;
use super::execute::{perform, retire};
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::{Done, Machine, Stop};
use super::operation::{Op, Place, Plan, Use, same};
use crate::arch::{Exception, Rflags};
use crate::regs::Regs;

/// The most iterations of a repeated string instruction in one call.
const MOST_ITERATIONS: usize = 1024;

/// MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS.
pub(super) fn is_string(instruction: &Instruction) -> bool {
    instruction.map == Map::Primary
        && matches!(instruction.opcode, 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf)
}

/// Executes iterations until the instruction is done or the machine wants to stop.
pub(super) fn execute(cpu: &mut Cpu<'_>, machine: &mut impl Machine) -> Result<Done, Stop> {
    let instruction = cpu.instruction;
    let repeats = instruction
        .prefixes
        .intersects(Prefixes::REP | Prefixes::REPNE);
    // CMPS and SCAS end when ZF is no longer this.
    let compares = matches!(instruction.opcode, 0xa6 | 0xa7 | 0xae | 0xaf);
    let equal = instruction.has(Prefixes::REP);
    for _ in 0..MOST_ITERATIONS {
        if repeats && cpu.count() == 0 {
            retire(cpu, machine);
            return Ok(Done::Retired);
        }
        let plan = plan(cpu)?;
        perform(cpu, &plan, machine)?;
        cpu.advance(plan.source_size, 1);
        let zero = cpu.regs.rflags & Rflags::ZF.bits() != 0;
        if !repeats || cpu.count() == 0 || compares && zero != equal {
            retire(cpu, machine);
            return Ok(Done::Retired);
        }
        *machine.regs() = cpu.regs;
        if !machine.again() {
            break;
        }
    }
    Ok(Done::Repeats)
}

impl Cpu<'_> {
    /// The iterations that are left.
    pub(super) fn count(&self) -> u64 {
        self.register(Regs::RCX as u8, self.instruction.address_size)
    }

    /// Moves the registers of a string instruction on by some iterations.
    pub(super) fn advance(&mut self, size: u8, iterations: u64) {
        let width = self.instruction.address_size;
        let down = self.regs.rflags & Rflags::DF.bits() != 0;
        let distance = u64::from(size).wrapping_mul(iterations);
        let step = if down {
            distance.wrapping_neg()
        } else {
            distance
        };
        let (uses_si, uses_di) = match self.instruction.opcode {
            0xa4..=0xa7 => (true, true),
            0x6e | 0x6f | 0xac | 0xad => (true, false),
            _ => (false, true),
        };
        let repeats = self
            .instruction
            .prefixes
            .intersects(Prefixes::REP | Prefixes::REPNE);
        for (used, number, by) in [
            (uses_si, Regs::RSI as u8, step),
            (uses_di, Regs::RDI as u8, step),
            (repeats, Regs::RCX as u8, iterations.wrapping_neg()),
        ] {
            if used {
                let value = self.register(number, width).wrapping_add(by);
                self.set_register(number, width, value);
            }
        }
    }
}

/// One iteration of a string instruction.
// Once in the module, not once per vendor.
#[inline(never)]
pub(super) fn plan(cpu: &Cpu<'_>) -> Result<Plan, Stop> {
    let instruction = cpu.instruction;
    let address_size = instruction.address_size;
    let size = match instruction.opcode {
        0x6c..=0x6f => instruction.operand_size.min(4),
        _ => instruction.operand_size,
    };
    let from = |write| -> Result<Place, Stop> {
        let offset = cpu.register(Regs::RSI as u8, address_size);
        Ok(Place::Memory(cpu.linear(offset, size, write)?))
    };
    let to = |write| -> Result<Place, Stop> {
        let offset = cpu.register(Regs::RDI as u8, address_size);
        Ok(Place::Memory(cpu.linear_extra(offset, size, write)?))
    };
    let accumulator = Place::Register(Regs::RAX as u8);
    let port = Place::Port(cpu.register(Regs::RDX as u8, 2) as u16);
    let (op, using, source, target) = match instruction.opcode {
        0x6c | 0x6d => (Op::Move, Use::Write, port, to(true)?),
        0x6e | 0x6f => (Op::Move, Use::Write, from(false)?, port),
        0xa4 | 0xa5 => (Op::Move, Use::Write, from(false)?, to(true)?),
        0xa6 | 0xa7 => (Op::Compare, Use::Read, from(false)?, to(false)?),
        0xaa | 0xab => (Op::Move, Use::Write, accumulator, to(true)?),
        0xac | 0xad => (Op::Move, Use::Write, from(false)?, accumulator),
        0xae | 0xaf => (Op::Compare, Use::Read, accumulator, to(false)?),
        _ => return Err(Stop::Unsupported),
    };
    if instruction.has(Prefixes::LOCK) {
        return Err(Stop::Exception(Exception::invalid_opcode()));
    }
    Ok(same(op, using, target, source, size))
}
