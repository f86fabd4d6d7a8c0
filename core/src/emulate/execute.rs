//! Executes an instruction: loads, computes, stores, then changes the registers.
use super::cpu::{Cpu, Stopped, mask};
use super::instruction::{Instruction, Prefixes};
use super::machine::{Access, Done, Machine, Stop};
use super::op::{self, Use, using};
use super::operand::{Kind, Place};
use super::operation::Plan;
use super::strings;
use crate::arch::Rflags;

/// Executes an instruction that [`decode`](super::decode()) has decoded at the machine's RIP.
///
/// What RIP and the registers are afterwards, [`Done`] says. Single stepping (RFLAGS.TF) and what
/// holds interrupts off after an instruction are the caller's.
///
/// # Errors
///
/// A [`Stop`], and the registers and the memory are as before, apart from the finished iterations
/// of a repeated string instruction. RIP is at the instruction.
pub fn execute(instruction: &Instruction, machine: &mut impl Machine) -> Result<Done, Stop> {
    let mut cpu = Cpu::new(instruction, machine);
    cpu.execute().map_err(|Stopped| cpu.why)
}

impl<M: Machine> Cpu<'_, M> {
    fn execute(&mut self) -> Result<Done, Stopped> {
        if strings::is_string(self.instruction) {
            return self.execute_string();
        }
        let plan = self.plan()?;
        self.perform(&plan)?;
        self.retire();
        Ok(Done::Retired)
    }

    /// The instruction has happened.
    pub(super) fn retire(&mut self) {
        self.regs.rip = self.next;
        self.regs.rflags &= !Rflags::RF.bits();
        self.keep_registers();
    }

    /// What has been done to the copy of the registers is done.
    #[inline(never)]
    pub(super) fn keep_registers(&mut self) {
        *self.machine.regs() = self.regs;
    }

    #[inline(never)]
    pub(super) fn read(
        &mut self,
        linear: u64,
        data: &mut [u8],
        access: Access,
    ) -> Result<(), Stopped> {
        let result = self.machine.read(linear, data, access);
        self.note(result)
    }

    /// Loads, computes and stores.
    #[inline(never)]
    pub(super) fn perform(&mut self, plan: &Plan) -> Result<(), Stopped> {
        let Plan { op, source, target } = *plan;
        let using = using(op);
        let to_memory = target.kind == Kind::Memory;
        let (mut from, mut to) = (0, 0);
        if source.kind == Kind::Port && to_memory {
            // What is read from a port is gone: the write must not fail afterwards.
            self.load(target, Access::Probe, &mut to)?;
        }
        if self.load(source, Access::Read, &mut from).is_err() {
            // Nor when a device in memory has answered; MOVS, PUSH and POP have such a source.
            if self.why == Stop::Device && using == Use::Write && to_memory {
                self.load(target, Access::Probe, &mut to)?;
            }
            return Err(Stopped);
        }
        match using {
            Use::Write => {}
            Use::Read => self.load(target, Access::Read, &mut to)?,
            Use::Modify => self.load(target, Access::Modify, &mut to)?,
        }
        let old = to;
        self.compute(plan, from, &mut to)?;
        if using == Use::Read || self.keep_target {
            return Ok(());
        }
        // XCHG with memory is always locked.
        let locked = self.instruction.has(Prefixes::LOCK) || op == op::EXCHANGE;
        self.store(target, locked && using == Use::Modify, old, to)
    }

    #[inline(never)]
    fn load(&mut self, place: Place, access: Access, data: &mut u128) -> Result<(), Stopped> {
        let Place { size, value, .. } = place;
        *data = match place.kind {
            Kind::None => 0,
            Kind::Register => self.register(value as u8, size).into(),
            Kind::Value => (value & mask(size)).into(),
            Kind::Vector => {
                let vector = self.machine.vector(value as u8);
                let [low, high] = self.note(vector)?;
                u128::from(low) | u128::from(high) << 64
            }
            Kind::Memory | Kind::Port => {
                let mut bytes = [0; 16];
                let part = bytes.get_mut(..usize::from(size)).unwrap_or_default();
                if place.kind == Kind::Memory {
                    self.read(value, part, access)?;
                } else {
                    self.check_port(value, size)?;
                    let result = self.machine.port_in(value as u16, part);
                    self.note(result)?;
                }
                u128::from_le_bytes(bytes)
            }
        };
        Ok(())
    }

    fn store(&mut self, place: Place, locked: bool, old: u128, new: u128) -> Result<(), Stopped> {
        let Place { size, value, .. } = place;
        let (old, bytes) = (old.to_le_bytes(), new.to_le_bytes());
        let part = ..usize::from(size);
        let data = bytes.get(part).unwrap_or_default();
        let result = match place.kind {
            Kind::None | Kind::Value => Ok(()),
            Kind::Register => {
                self.set_register(value as u8, size, new as u64);
                Ok(())
            }
            Kind::Vector => {
                let halves = [new as u64, (new >> 64) as u64];
                self.machine.set_vector(value as u8, halves)
            }
            Kind::Memory if locked => {
                let old = old.get(part).unwrap_or_default();
                match self.machine.compare_exchange(value, old, data) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Stop::Retry),
                    Err(why) => Err(why),
                }
            }
            Kind::Memory => self.machine.write(value, data),
            Kind::Port => {
                self.check_port(value, size)?;
                self.machine.port_out(value as u16, data)
            }
        };
        self.note(result)
    }
}
