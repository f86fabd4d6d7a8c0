//! Moves to and from control and debug registers: which general register, and how much of it.
//!
//! Source: Intel SDM volume 2, "MOV—Move to/from Control Registers", "MOV—Move to/from Debug
//! Registers", "LMSW—Load Machine Status Word" and "SMSW—Store Machine Status Word".
use waterbear_hal::Hal;

use super::GuestCpu;
use super::control::Done;
use super::fetch::NoInstruction;
use crate::emulate::Map;
use crate::exit::{ControlExit, DebugExit};
use crate::vendor::Vendor;
use crate::vm::Vm;

/// Where the operand of a MOV to or from a control or debug register is.
const MOVES: core::ops::RangeInclusive<u8> = 0x20..=0x23;

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    pub(super) fn control(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        exit: ControlExit,
    ) -> Result<Done, NoInstruction> {
        if let Err(exception) = self.privileged_control(vendor, exit) {
            return Ok(Err(exception));
        }
        Ok(match exit {
            ControlExit::Write { register, source } => {
                let source = match source {
                    Some(source) => source,
                    None => self.moved(vm, vendor)?,
                };
                let value = vendor.regs(self.runner.state()).get(source);
                let value = self.whole_or_half(vendor, value);
                self.write_control(vm, vendor, register, value)
            }
            ControlExit::Read { register, target } => {
                let value = match self.read_control(vendor, register) {
                    Ok(value) => self.whole_or_half(vendor, value),
                    Err(exception) => return Ok(Err(exception)),
                };
                match target {
                    Some(target) => vendor.regs(self.runner.state()).set(target, value),
                    None => self.store_control(vm, vendor, value)?,
                }
                Ok(())
            }
            ControlExit::ClearTs => self.clear_ts(vendor),
            ControlExit::LoadStatus(Some(value)) => self.load_status(vm, vendor, value),
            ControlExit::LoadStatus(None) => {
                let instruction = self.instruction(vm, vendor)?;
                let lmsw = instruction.map == Map::Secondary && instruction.opcode == 1;
                if !lmsw || instruction.memory.is_some() {
                    return Err(NoInstruction::Unknown);
                }
                let value = vendor.regs(self.runner.state()).get(instruction.rm);
                self.load_status(vm, vendor, value as u16)
            }
        })
    }

    /// SMSW is for everyone; the others are not.
    fn privileged_control(&mut self, vendor: &V, exit: ControlExit) -> Done {
        match exit {
            ControlExit::Read {
                register: 0,
                target: None,
            } => Ok(()),
            _ => self.privileged(vendor),
        }
    }

    /// Puts CR0 where a MOV from it, or SMSW, wants it.
    fn store_control(&mut self, vm: &Vm<H>, vendor: &V, value: u64) -> Result<(), NoInstruction> {
        let instruction = self.instruction(vm, vendor)?;
        if instruction.memory.is_some() || instruction.map != Map::Secondary {
            return Err(NoInstruction::Unknown);
        }
        let regs = vendor.regs(self.runner.state());
        let old = regs.get(instruction.rm);
        let value = match (instruction.opcode, instruction.operand_size) {
            (1, 2) => old & !0xffff | value & 0xffff,
            (1, 4) => value & 0xffff_ffff,
            _ => value,
        };
        regs.set(instruction.rm, value);
        Ok(())
    }

    /// The general register of a MOV to or from a control or debug register.
    fn moved(&mut self, vm: &Vm<H>, vendor: &V) -> Result<u8, NoInstruction> {
        let instruction = self.instruction(vm, vendor)?;
        if instruction.map != Map::Secondary || !MOVES.contains(&instruction.opcode) {
            return Err(NoInstruction::Changed);
        }
        Ok(instruction.rm)
    }

    /// Outside 64-bit mode these instructions move 32 bits.
    #[inline(never)]
    pub(super) fn whole_or_half(&mut self, vendor: &V, value: u64) -> u64 {
        if self.in_64_bit_code(vendor) {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    pub(super) fn debug(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        exit: DebugExit,
    ) -> Result<Done, NoInstruction> {
        let general = match exit.general {
            Some(general) => general,
            None => self.moved(vm, vendor)?,
        };
        if exit.read {
            return Ok(self.read_debug(vendor, exit.register).map(|value| {
                let value = self.whole_or_half(vendor, value);
                vendor.regs(self.runner.state()).set(general, value);
            }));
        }
        let value = vendor.regs(self.runner.state()).get(general);
        let value = self.whole_or_half(vendor, value);
        Ok(self.write_debug(vendor, exit.register, value))
    }
}
