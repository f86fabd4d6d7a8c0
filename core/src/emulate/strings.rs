//! String instructions, with and without repetition.
//!
//! Source: Intel SDM volume 2, "REP/REPE/REPZ/REPNE/REPNZ—Repeat String Operation Prefix".
use super::cpu::{Cpu, Stopped};
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::{Done, Machine};
use crate::arch::Rflags;
use crate::regs::Regs;

/// The most iterations of a repeated string instruction in one call.
const MOST_ITERATIONS: usize = 1024;

/// MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS.
pub(super) fn is_string(instruction: &Instruction) -> bool {
    instruction.map == Map::Primary
        && matches!(instruction.opcode, 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf)
}

impl<M: Machine> Cpu<'_, M> {
    /// Executes iterations until the instruction is done or the machine wants to stop.
    pub(super) fn execute_string(&mut self) -> Result<Done, Stopped> {
        let instruction = self.instruction;
        let repeats = self.repeats();
        // CMPS and SCAS end when ZF is no longer this.
        let compares = matches!(instruction.opcode, 0xa6 | 0xa7 | 0xae | 0xaf);
        let equal = instruction.has(Prefixes::REP);
        for _ in 0..MOST_ITERATIONS {
            let mut last = repeats && self.count() == 0;
            if !last {
                let plan = self.plan()?;
                self.perform(&plan)?;
                self.advance(plan.source.size, 1);
                let zero = self.regs.rflags & Rflags::ZF.bits() != 0;
                last = !repeats || self.count() == 0 || compares && zero != equal;
            }
            if last {
                self.retire();
                return Ok(Done::Retired);
            }
            self.keep_registers();
            if !self.machine.again() {
                break;
            }
        }
        Ok(Done::Repeats)
    }

    fn repeats(&self) -> bool {
        let repeats = Prefixes::REP | Prefixes::REPNE;
        self.instruction.prefixes.intersects(repeats)
    }

    /// The iterations that are left.
    pub(super) fn count(&self) -> u64 {
        self.register(Regs::RCX as u8, self.instruction.address_size)
    }

    /// Moves the registers of a string instruction on by some iterations.
    #[inline(never)]
    pub(super) fn advance(&mut self, size: u8, iterations: u64) {
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
        if uses_si {
            self.step(Regs::RSI as u8, step);
        }
        if uses_di {
            self.step(Regs::RDI as u8, step);
        }
        if self.repeats() {
            self.step(Regs::RCX as u8, iterations.wrapping_neg());
        }
    }

    #[inline(never)]
    fn step(&mut self, number: u8, by: u64) {
        let width = self.instruction.address_size;
        let value = self.register(number, width).wrapping_add(by);
        self.set_register(number, width, value);
    }
}
