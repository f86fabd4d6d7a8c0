//! Iterations of a repeated INS or OUTS that are done together.
//!
//! A device's data port is read or written a sector at a time, and each way to the owner and back
//! costs more than all the accesses. So the owner gets as many as are in one page of the guest's
//! memory.
use super::cpu::{Cpu, mask};
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::Machine;
use super::operand::Kind;
use super::operation::Plan;
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
    Cpu::new(instruction, machine).batch()
}

impl<M: Machine> Cpu<'_, M> {
    fn batch(&mut self) -> Option<Batch> {
        let (input, port, first, size) = self.ends()?;
        let index = if input { Regs::RDI } else { Regs::RSI };
        let width = self.instruction.address_size;
        let offset = self.register(index as u8, width);
        let down = self.regs.rflags & Rflags::DF.bits() != 0;
        let beyond = u64::from(size).checked_sub(1)?;
        let in_page = first & 0xfff;
        // The bytes from the operand's beginning to the page's end, or to that of the addresses.
        let to_end = (0xfff ^ in_page).min(mask(width) ^ offset);
        let after = to_end.checked_sub(beyond)?;
        let room = if down { in_page.min(offset) } else { after };
        // At most a page of them.
        let more = room.checked_div(size.into())?;
        let count = (more + 1).min(self.count());
        if count < 2 {
            return None;
        }
        // All between the first and the last are where these are.
        self.advance(size, count - 1);
        let (.., last, _) = self.ends()?;
        self.check_port(port.into(), size).ok()?;
        Some(Batch {
            port,
            size,
            input,
            count: count as u16,
            linear: first.min(last),
            down,
        })
    }

    /// Whether the next iteration is input, the port, the address, and bytes.
    fn ends(&mut self) -> Option<(bool, u16, u64, u8)> {
        let Plan { source, target, .. } = self.plan().ok()?;
        let input = source.kind == Kind::Port;
        let (port, memory) = if input {
            (source, target)
        } else {
            (target, source)
        };
        Some((input, port.value as u16, memory.value, source.size))
    }
}

/// The accesses have been made: the registers go on, and RIP when they were the last.
pub fn finish_batch(instruction: &Instruction, batch: &Batch, machine: &mut impl Machine) {
    let mut cpu = Cpu::new(instruction, machine);
    cpu.advance(batch.size, batch.count.into());
    if cpu.count() == 0 {
        cpu.retire();
    } else {
        cpu.keep_registers();
    }
}
