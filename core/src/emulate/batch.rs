//! Iterations of a repeated INS or OUTS that are done together.
//!
//! A device's data port is read or written a sector at a time, and each way to the owner and back
//! costs more than all the accesses. So the owner gets as many as are in one page of the guest's
//! memory.
use super::cpu::{Cpu, mask};
use super::execute::retire;
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::Machine;
use super::operation::Place;
use super::port::check_port;
use super::strings::plan;
use crate::arch::Rflags;
use crate::regs::Regs;

/// Accesses to a port, one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The port.
    pub port: u16,
    /// Bytes per access: 1, 2 or 4.
    pub size: u8,
    /// The guest reads from the port.
    pub input: bool,
    /// How many there are, at least two.
    pub count: u16,
    /// The linear address of the lowest byte of their operands, which are all in one page.
    pub linear: u64,
    /// The first access has the highest operand.
    pub down: bool,
}

impl Batch {
    /// The bytes of all operands, at most a page.
    pub fn bytes(&self) -> usize {
        usize::from(self.count) * usize::from(self.size)
    }
}

/// INS and OUTS.
pub fn is_port_string(instruction: &Instruction) -> bool {
    instruction.map == Map::Primary && matches!(instruction.opcode, 0x6c..=0x6f)
}

/// The iterations with which an instruction goes on, where several can be done together: their
/// operands are in one page and all of them pass the checks of segments and ports. Paging is the
/// caller's, who executes what is not done this way one by one.
pub fn batch(instruction: &Instruction, machine: &mut impl Machine) -> Option<Batch> {
    let repeats = Prefixes::REP | Prefixes::REPNE;
    let steps = machine.regs().rflags & Rflags::TF.bits() != 0;
    if !is_port_string(instruction) || !instruction.prefixes.intersects(repeats) || steps {
        return None;
    }
    let cpu = Cpu::new(instruction, machine);
    let found = find(&cpu)?;
    check_port(&cpu, machine, found.port, found.size).ok()?;
    Some(found)
}

// Once in the module, not once per vendor.
#[inline(never)]
fn find(cpu: &Cpu<'_>) -> Option<Batch> {
    let width = cpu.instruction.address_size;
    let left = cpu.register(Regs::RCX as u8, width);
    let down = cpu.regs.rflags & Rflags::DF.bits() != 0;
    let plan = plan(cpu).ok()?;
    let (input, port, first) = match (plan.source, plan.target) {
        (Place::Port(port), Place::Memory(first)) => (true, port, first),
        (Place::Memory(first), Place::Port(port)) => (false, port, first),
        _ => return None,
    };
    let index = if input { Regs::RDI } else { Regs::RSI };
    let offset = cpu.register(index as u8, width);
    let size = u64::from(plan.source_size);
    let beyond = size.checked_sub(1)?;
    // How far the page goes, and the addresses.
    let in_page = first & 0xfff;
    let room = if down {
        in_page.min(offset)
    } else {
        let page = 0xfff_u64.checked_sub(in_page.checked_add(beyond)?)?;
        page.min(mask(width).checked_sub(offset)?.checked_sub(beyond)?)
    };
    if in_page + beyond > 0xfff {
        return None;
    }
    // At most a page of them.
    let count = (room.checked_div(size)? + 1).min(left);
    if count < 2 {
        return None;
    }
    let distance = (count - 1) * size;
    let last = if down {
        offset.wrapping_sub(distance)
    } else {
        offset.wrapping_add(distance)
    };
    let last = if input {
        cpu.linear_extra(last, plan.source_size, true)
    } else {
        cpu.linear(last, plan.source_size, false)
    };
    Some(Batch {
        port,
        size: plan.source_size,
        input,
        count: u16::try_from(count).ok()?,
        linear: first.min(last.ok()?),
        down,
    })
}

/// The accesses have been made: the registers go on, and RIP when they were the last.
pub fn finish_batch(instruction: &Instruction, batch: &Batch, machine: &mut impl Machine) {
    let mut cpu = Cpu::new(instruction, machine);
    cpu.advance(batch.size, batch.count.into());
    if cpu.count() == 0 {
        retire(&mut cpu, machine);
    } else {
        *machine.regs() = cpu.regs;
    }
}
