//! What is done about each exit.
use waterbear_hal::{Gpa, Hal};

use super::control::{Done, Raised};
use super::cpuid::Asked;
use super::debug::DR6_BS;
use super::emulation::Hint;
use super::fetch::NoInstruction;
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
        match core::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Out { length } => self.skip(vendor, length),
            Pending::In { size, length } => {
                self.complete_in(vendor, size);
                self.skip(vendor, length);
            }
            Pending::Load(load) => self.complete_load(vendor, load),
            Pending::Nothing => {}
            emulated => {
                if let Step::Leave(leave) = self.complete_emulated(vm, vendor, emulated)? {
                    return Ok(Some(leave));
                }
            }
        }
        Ok(None)
    }

    #[inline(never)]
    fn complete_emulated(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        pending: Pending,
    ) -> Result<Step, Error> {
        match pending {
            Pending::Read => self.complete_read(vm, vendor),
            Pending::Write => Ok(self.tell_devices(vm)),
            _ => self.complete_together(vm, vendor),
        }
    }

    /// Goes on behind an instruction of this length, as hardware does at its end.
    #[inline(never)]
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
            Exit::Io(io) if !io.string => {
                self.stats.add(Count::Io);
                match self.length(vm, vendor) {
                    Ok(length) => Ok(self.port(vm, vendor, io, length)),
                    Err(why) => self.without_instruction(why),
                }
            }
            Exit::Cpuid
            | Exit::ReadMsr
            | Exit::WriteMsr
            | Exit::Halt
            | Exit::Control(_)
            | Exit::Debug(_)
            | Exit::SetXcr
            | Exit::Hypercall
            | Exit::Pause
            | Exit::Invd
            | Exit::Wbinvd => self.instruction_exit(vm, vendor, exit),
            _ => self.handle_rare(vm, vendor, exit),
        }
    }

    /// The same for what seldom happens.
    #[inline(never)]
    fn handle_rare(&mut self, vm: &Vm<H>, vendor: &V, exit: Exit) -> Result<Step, Error> {
        let (count, leave) = match exit {
            // Windows are asked for anew before each entry, and what waits is looked at there.
            Exit::InterruptWindow | Exit::NmiWindow => {
                self.asked = true;
                (Count::Window, None)
            }
            Exit::Forbidden => {
                self.events.raise(Exception::invalid_opcode());
                (Count::Other, None)
            }
            Exit::Exception(exception) => {
                self.stats.add(Count::Exception);
                return self.reflect(vm, vendor, exception);
            }
            // The owner will hardly see this guest run again.
            Exit::Shutdown => (Count::Other, Some(Leave::Shutdown)),
            Exit::Refused(code) => (Count::Other, Some(Leave::EntryFailed(code))),
            Exit::Unknown(code) => (Count::Other, Some(Leave::Unknown(code))),
            Exit::DirtyLogFull => (Count::Other, Some(Leave::Unknown(u64::MAX))),
            Exit::TaskSwitch { .. } => {
                self.stats.add(Count::Other);
                self.code = Default::default();
                return Ok(self.emulation_failed());
            }
            // What is left: ports and strings.
            _ => {
                self.stats.add(Count::Io);
                return self.emulate(vm, vendor, None);
            }
        };
        self.stats.add(count);
        Ok(leave.map_or(Step::Resume, Step::Leave))
    }

    /// An instruction left the guest, and is finished here or by the owner.
    #[inline(always)]
    fn instruction_exit(&mut self, vm: &Vm<H>, vendor: &V, exit: Exit) -> Result<Step, Error> {
        let length = match self.length(vm, vendor) {
            Ok(length) => length,
            Err(why) => return self.without_instruction(why),
        };
        let mut leave = None;
        let (count, done) = match exit {
            Exit::Cpuid => {
                let asked = Asked {
                    table: &self.cpuid,
                    features: &self.features,
                    apic_base: self.kept.apic_base(),
                };
                asked.execute(vendor, self.runner.state());
                (Count::Cpuid, Ok(()))
            }
            Exit::ReadMsr => (Count::Msr, self.execute_rdmsr(vm, vendor)),
            Exit::WriteMsr => (Count::Msr, self.execute_wrmsr(vm, vendor)),
            Exit::Halt => {
                leave = Some(Leave::Halted);
                (Count::Halt, self.privileged(vendor))
            }
            _ => {
                let before = self.cr8;
                let done = match self.execute_rarely(vm, vendor, exit) {
                    Ok(done) => done,
                    Err(why) => {
                        self.stats.add(Count::Register);
                        return self.without_instruction(why);
                    }
                };
                if self.cr8 < before {
                    leave = Some(Leave::TaskPriority);
                }
                done
            }
        };
        self.stats.add(count);
        match done {
            Ok(()) => {
                self.skip(vendor, length);
                Ok(leave.map_or(Step::Resume, Step::Leave))
            }
            Err(raised) => {
                self.events.raise(raised.exception());
                Ok(Step::Resume)
            }
        }
    }

    /// Executes an instruction that seldom leaves the guest; also says what it counts as.
    #[inline(never)]
    fn execute_rarely(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        exit: Exit,
    ) -> Result<(Count, Done), NoInstruction> {
        Ok(match exit {
            Exit::Control(control) => (Count::Register, self.control(vm, vendor, control)?),
            Exit::Debug(debug) => (Count::Register, self.debug(vm, vendor, debug)?),
            Exit::SetXcr => (Count::Other, self.set_extended_control(vendor)),
            Exit::Hypercall => {
                self.hypercall(vendor);
                (Count::Hypercall, Ok(()))
            }
            Exit::Pause => {
                self.hal.yield_now();
                (Count::Other, Ok(()))
            }
            // INVD and WBINVD. No device of the host's writes past the caches into this guest.
            _ => (Count::Other, self.privileged(vendor)),
        })
    }

    /// #GP but at privilege level 0.
    pub(super) fn privileged(&mut self, vendor: &V) -> Done {
        match vendor.cpl(self.runner.state()) {
            0 => Ok(()),
            _ => Err(Raised::Protection),
        }
    }

    fn execute_rdmsr(&mut self, vm: &Vm<H>, vendor: &V) -> Done {
        self.privileged(vendor)?;
        let index = vendor.regs(self.runner.state()).ecx();
        let value = self.read_msr(vendor, index, By::Guest);
        let value = value
            .or_else(|| self.clock_msr(vm, index))
            .ok_or(Raised::Protection)?;
        vendor.regs(self.runner.state()).set_edx_eax(value);
        Ok(())
    }

    fn execute_wrmsr(&mut self, vm: &Vm<H>, vendor: &V) -> Done {
        self.privileged(vendor)?;
        let regs = vendor.regs(self.runner.state());
        let (index, value) = (regs.ecx(), regs.edx_eax());
        self.write_msr(vendor, index, value, By::Guest)
            .or_else(|| self.set_clock_msr(vm, index, value))
            .ok_or(Raised::Protection)
    }

    /// There are no hypercalls; the error is one that KVM's guests know.
    fn hypercall(&mut self, vendor: &V) {
        const ENOSYS: i64 = -1000;
        const EPERM: i64 = -1;
        let error = match vendor.cpl(self.runner.state()) {
            0 => ENOSYS,
            _ => EPERM,
        };
        let value = self.whole_or_half(vendor, error.cast_unsigned());
        vendor.regs(self.runner.state()).set(Regs::RAX as u8, value);
    }

    /// An exception that is intercepted, for reasons that do not concern the guest, is the guest's.
    #[inline(never)]
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
