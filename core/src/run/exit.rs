//! What is done about each exit.
use waterbear_hal::{Gpa, Hal};

use super::control::{Done, GP};
use super::cpuid::Asked;
use super::debug::DR6_BS;
use super::emulation::Hint;
use super::leave::Leave;
use super::msr::By;
use super::{GuestCpu, Pending};
use crate::Error;
use crate::arch::{Event, Exception, Rflags, Shadow};
use crate::exit::Exit;
use crate::regs::Regs;
use crate::stats::Count;
use crate::tdp::fast::Access;
use crate::vendor::Vendor;
use crate::vm::{Outcome, Vm};

/// What comes after an exit.
pub(super) enum Step {
    /// The guest runs again.
    Resume,
    /// The owner acts.
    Leave(Leave),
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Finishes what the last leave left open.
    pub(super) fn complete(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Option<Leave>, Error> {
        let step = match core::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => Step::Resume,
            Pending::Out { length } => {
                self.skip(vendor, length);
                Step::Resume
            }
            Pending::In { size, length } => {
                self.complete_in(vendor, size);
                self.skip(vendor, length);
                Step::Resume
            }
            Pending::Load(load) => {
                self.complete_load(vendor, load);
                Step::Resume
            }
            Pending::Read => self.complete_read(vm, vendor)?,
            Pending::Write => self.tell_devices(vm),
            Pending::Together => self.complete_together(vm, vendor)?,
        };
        match step {
            Step::Resume => Ok(None),
            Step::Leave(leave) => Ok(Some(leave)),
        }
    }

    /// Goes on behind an instruction of this length, as hardware does at its end.
    pub(super) fn skip(&mut self, vendor: &V, length: u8) {
        let state = self.runner.state();
        let regs = vendor.regs(state);
        let old = regs.rip;
        let new = old.wrapping_add(u64::from(length));
        let steps = regs.rflags & Rflags::TF.bits() != 0;
        regs.rip = new;
        regs.rflags &= !Rflags::RF.bits();
        // Only 64-bit code is there, or gets there.
        if (old ^ new) >> 32 != 0 && !self.in_64_bit_code(vendor) {
            vendor.regs(self.runner.state()).rip = new & 0xffff_ffff;
        }
        self.retired(vendor, steps);
    }

    /// An instruction has happened; RFLAGS.TF was on before it if it `steps`.
    pub(super) fn retired(&mut self, vendor: &V, steps: bool) {
        let state = self.runner.state();
        let shadow = vendor.shadow(state);
        if shadow.intersects(Shadow::STI | Shadow::MOV_SS) {
            vendor.set_shadow(state, shadow & Shadow::NMI);
        }
        if steps {
            self.events.raise(Exception {
                payload: DR6_BS,
                ..Exception::plain(Exception::DB)
            });
        }
    }

    /// Handles an exit.
    pub(super) fn handle(&mut self, vm: &Vm<H>, vendor: &V, exit: Exit) -> Result<Step, Error> {
        match exit {
            Exit::Fault { gpa, access } => {
                self.stats.add(Count::Fault);
                let outcome = vm.handle_fault(&mut self.mmu, gpa, access)?;
                self.after_fault(vm, vendor, outcome, gpa, Some(access))
            }
            Exit::Mmio { gpa, access } => {
                self.stats.add(Count::MmioFault);
                let outcome = vm.handle_mmio(&mut self.mmu, gpa, access.unwrap_or_default())?;
                self.after_fault(vm, vendor, outcome, gpa, access)
            }
            // The host takes it, and the next attempt sees what it left.
            Exit::Interrupt => {
                self.stats.add(Count::Interrupt);
                Ok(Step::Resume)
            }
            // Windows are asked for anew before each entry, and what waits is looked at there.
            Exit::InterruptWindow | Exit::NmiWindow => {
                self.stats.add(Count::Window);
                self.asked = true;
                Ok(Step::Resume)
            }
            Exit::Forbidden => {
                self.stats.add(Count::Other);
                self.events.raise(Exception::invalid_opcode());
                Ok(Step::Resume)
            }
            Exit::Exception(exception) => {
                self.stats.add(Count::Exception);
                self.reflect(vm, vendor, exception)
            }
            Exit::Shutdown => Ok(self.leave(Leave::Shutdown)),
            Exit::Refused(code) => Ok(self.leave(Leave::EntryFailed(code))),
            Exit::Unknown(code) => Ok(self.leave(Leave::Unknown(code))),
            Exit::DirtyLogFull => Ok(self.leave(Leave::Unknown(u64::MAX))),
            Exit::TaskSwitch { .. } => {
                self.stats.add(Count::Other);
                self.code = Default::default();
                Ok(self.emulation_failed())
            }
            Exit::Io(io) if io.string => {
                self.stats.add(Count::Io);
                self.emulate(vm, vendor, None)
            }
            _ => self.instruction_exit(vm, vendor, exit),
        }
    }

    /// The owner acts, who will hardly see this guest run again.
    fn leave(&self, leave: Leave) -> Step {
        self.stats.add(Count::Other);
        Step::Leave(leave)
    }

    /// An instruction left the guest, and is finished here or by the owner.
    #[inline]
    fn instruction_exit(&mut self, vm: &Vm<H>, vendor: &V, exit: Exit) -> Result<Step, Error> {
        let length = match self.length(vm, vendor) {
            Ok(length) => length,
            Err(why) => return self.without_instruction(why),
        };
        let mut leave = None;
        let done = match exit {
            Exit::Cpuid => {
                self.stats.add(Count::Cpuid);
                let asked = Asked {
                    table: &self.cpuid,
                    features: &self.features,
                    apic_base: self.kept.apic_base,
                };
                asked.execute(vendor, self.runner.state());
                Ok(())
            }
            Exit::ReadMsr => {
                self.stats.add(Count::Msr);
                self.execute_rdmsr(vm, vendor)
            }
            Exit::WriteMsr => {
                self.stats.add(Count::Msr);
                self.execute_wrmsr(vm, vendor)
            }
            Exit::Io(io) => {
                self.stats.add(Count::Io);
                return Ok(self.port(vm, vendor, io, length));
            }
            Exit::Halt => {
                self.stats.add(Count::Halt);
                leave = Some(Leave::Halted);
                self.privileged(vendor)
            }
            Exit::Pause => {
                self.stats.add(Count::Other);
                self.hal.yield_now();
                Ok(())
            }
            // No device of the host's writes past the caches into this guest.
            Exit::Invd | Exit::Wbinvd => {
                self.stats.add(Count::Other);
                self.privileged(vendor)
            }
            Exit::Hypercall => {
                self.stats.add(Count::Hypercall);
                self.hypercall(vendor);
                Ok(())
            }
            Exit::SetXcr => {
                self.stats.add(Count::Other);
                self.set_extended_control(vendor)
            }
            Exit::Control(control) => {
                self.stats.add(Count::Register);
                let before = self.cr8();
                match self.control(vm, vendor, control) {
                    Ok(done) => {
                        if self.cr8() < before {
                            leave = Some(Leave::TaskPriority);
                        }
                        done
                    }
                    Err(why) => return self.without_instruction(why),
                }
            }
            Exit::Debug(debug) => {
                self.stats.add(Count::Register);
                match self.debug(vm, vendor, debug) {
                    Ok(done) => done,
                    Err(why) => return self.without_instruction(why),
                }
            }
            _ => return Ok(self.leave(Leave::Unknown(u64::MAX))),
        };
        match done {
            Ok(()) => {
                self.skip(vendor, length);
                Ok(leave.map_or(Step::Resume, Step::Leave))
            }
            Err(exception) => {
                self.events.raise(exception);
                Ok(Step::Resume)
            }
        }
    }

    /// #GP but at privilege level 0.
    pub(super) fn privileged(&mut self, vendor: &V) -> Done {
        match vendor.cpl(self.runner.state()) {
            0 => Ok(()),
            _ => Err(GP),
        }
    }

    fn execute_rdmsr(&mut self, vm: &Vm<H>, vendor: &V) -> Done {
        self.privileged(vendor)?;
        let index = vendor.regs(self.runner.state()).ecx();
        let value = self.read_msr(vendor, index, By::Guest);
        let value = value.or_else(|| self.clock_msr(vm, index)).ok_or(GP)?;
        vendor.regs(self.runner.state()).set_edx_eax(value);
        Ok(())
    }

    fn execute_wrmsr(&mut self, vm: &Vm<H>, vendor: &V) -> Done {
        self.privileged(vendor)?;
        let regs = vendor.regs(self.runner.state());
        let (index, value) = (regs.ecx(), regs.edx_eax());
        self.write_msr(vendor, index, value, By::Guest)
            .or_else(|| self.set_clock_msr(vm, index, value))
            .ok_or(GP)
    }

    /// There are no hypercalls; the error is one that KVM's guests know.
    fn hypercall(&mut self, vendor: &V) {
        const ENOSYS: i64 = -1000;
        const EPERM: i64 = -1;
        let error = match vendor.cpl(self.runner.state()) {
            0 => ENOSYS,
            _ => EPERM,
        };
        let long = self.in_64_bit_code(vendor);
        let value = if long {
            error as u64
        } else {
            u64::from(error as u32)
        };
        vendor.regs(self.runner.state()).set(Regs::RAX as u8, value);
    }

    /// An exception that is intercepted, for reasons that do not concern the guest, is the guest's.
    fn reflect(&mut self, vm: &Vm<H>, vendor: &V, exception: Exception) -> Result<Step, Error> {
        match exception.vector {
            // INT3 and INTO return behind the instruction.
            vector @ (Exception::BP | Exception::OF) => match self.length(vm, vendor) {
                Ok(length) => {
                    self.events.again = Some(Event::SoftException { vector, length });
                    Ok(Step::Resume)
                }
                Err(why) => self.without_instruction(why),
            },
            _ => {
                self.events.raise(exception);
                Ok(Step::Resume)
            }
        }
    }

    fn after_fault(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        outcome: Outcome,
        gpa: Gpa,
        access: Option<Access>,
    ) -> Result<Step, Error> {
        let hint = match access {
            // A walk of the CPU's own is not the operand.
            Some(access) if access.guest_walk => None,
            access => Some(Hint {
                gpa,
                write: access.map(|access| access.write),
            }),
        };
        if outcome == Outcome::Mmio
            && let Some(hint) = hint
            && let Some(step) = self.move_plainly(vm, vendor, hint)
        {
            return Ok(step);
        }
        match outcome {
            Outcome::Resume => Ok(Step::Resume),
            Outcome::Mmio | Outcome::Emulate => self.emulate(vm, vendor, hint),
        }
    }
}
