//! Instructions that are executed here: accesses to devices, string accesses to ports, and
//! accesses to memory that the guest's CPU may not write by itself.
//!
//! A device answers outside the kernel. The instruction stops there, and is executed again from
//! its beginning when the answer has come; what it has asked before is not asked again. What it
//! writes to devices goes out after it has happened.
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gpa, Hal, Width};

use super::exit::Step;
use super::fetch::Code;
use super::leave::Leave;
use super::{GuestCpu, Pending};
use crate::Error;
use crate::arch::{Cr0, Cr4, Efer, Rflags, Segment, SegmentName};
use crate::emulate::{
    Access, Done, Feature, Fragment, Instruction, Machine, Map, Stop, Target, execute, pieces,
};
use crate::paging::{self, Access as Wanted, Failure, Kind, Mode, Registers};
use crate::regs::Regs;
use crate::stats::Count;
use crate::vendor::Vendor;
use crate::vm::{GuestTables, Vm, is_there};

/// How often an instruction that meets changes is executed again before the guest tries it.
const ATTEMPTS: u32 = 8;

/// The access for which the hardware left the guest.
#[derive(Clone, Copy)]
pub(super) struct Hint {
    /// Its address.
    pub(super) gpa: Gpa,
    /// Whether it was a write, where the hardware says so.
    pub(super) write: Option<bool>,
}

/// An instruction that is executed here.
#[derive(Clone, Copy, Default)]
pub(super) struct Emulated {
    pub(super) instruction: Instruction,
    hint: Option<Hint>,
    /// What decides translations; no instruction that is executed here changes it.
    registers: Registers,
}

/// Whether the one access to memory that an instruction makes, but for its own bytes, is that of
/// its ModRM operand.
fn has_one_operand_in_memory(instruction: &Instruction) -> bool {
    let more = instruction.map == Map::Primary
        && match instruction.opcode {
            // POP to memory.
            0x8f => true,
            // CALL, JMP and PUSH by memory; INC and DEC are not meant.
            0xff => instruction.extension() >= 2,
            _ => false,
        };
    instruction.memory.is_some() && !more
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Executes the instruction at RIP, which left the guest because of an access at `hint`.
    pub(super) fn emulate(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        hint: Option<Hint>,
    ) -> Result<Step, Error> {
        self.stats.add(Count::Emulation);
        // What was read or written is not an operand: an event was being delivered.
        if self.events.again.is_some() {
            self.code = Code::default();
            return Ok(self.emulation_failed());
        }
        let registers = self.paging(vm, vendor);
        let instruction = match self.instruction_by(vm, vendor, Some(&registers)) {
            Ok(instruction) => instruction,
            Err(why) => return self.without_instruction(why),
        };
        self.emulated = Emulated {
            instruction,
            hint: hint.filter(|_| has_one_operand_in_memory(&instruction)),
            registers,
        };
        self.devices.finish();
        let together = self.ask_together(vm, vendor);
        self.devices.finish();
        match together {
            Some(step) => Ok(step),
            None => self.perform(vm, vendor),
        }
    }

    /// Executes the instruction as far as the devices have answered.
    fn perform(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Step, Error> {
        let steps = vendor.regs(self.runner.state()).rflags & Rflags::TF.bits() != 0;
        let instruction = self.emulated.instruction;
        let mut result = Err(Stop::Retry);
        for _ in 0..ATTEMPTS {
            self.devices.begin();
            result = execute(&instruction, &mut InKernel::new(self, vm, vendor));
            if result != Err(Stop::Retry) {
                break;
            }
        }
        if result == Err(Stop::Device)
            && let Some(question) = self.devices.question()
        {
            self.pending = Pending::Read;
            return Ok(self.ask_device(question, false));
        }
        self.devices.finish();
        match result {
            Ok(Done::Retired | Done::Repeats) => {
                self.retired(vendor, steps);
                Ok(self.tell_devices(vm))
            }
            Err(Stop::Exception(exception)) => {
                self.events.raise(exception);
                Ok(Step::Resume)
            }
            Err(Stop::Retry) => Ok(Step::Resume),
            Err(Stop::Unsupported | Stop::Device) => Ok(self.emulation_failed()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// The device has answered.
    pub(super) fn complete_read(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Step, Error> {
        let data = self.data.get(..self.len).unwrap_or_default();
        self.devices.answer(data);
        self.perform(vm, vendor)
    }

    /// Whether the guest may write at `linear`, and `gpa` is where that is.
    #[cold]
    #[inline(never)]
    pub(super) fn may_write(&mut self, vm: &Vm<H>, vendor: &V, linear: u64, gpa: Gpa) -> bool {
        // Nothing waits for an answer: this replaces what an instruction has left.
        self.emulated.registers = self.paging(vm, vendor);
        let mut machine = InKernel::new(self, vm, vendor);
        let wanted = machine.wanted(Kind::Write);
        machine.gpa(linear, wanted).is_ok_and(|found| found == gpa)
    }

    /// What the instruction writes to devices goes out, one access at a time.
    pub(super) fn tell_devices(&mut self, vm: &Vm<H>) -> Step {
        while let Some(write) = self.devices.take_write() {
            if !vm.bus().write(write.target, write.bytes()) {
                self.pending = Pending::Write;
                return self.ask_device(write, true);
            }
        }
        Step::Resume
    }

    fn ask_device(&mut self, fragment: Fragment, write: bool) -> Step {
        let size = fragment.length;
        self.len = usize::from(size);
        self.put_data(&fragment.data);
        Step::Leave(match fragment.target {
            Target::Memory(gpa) => {
                self.stats.add(Count::Mmio);
                Leave::Mmio {
                    gpa: Gpa(gpa),
                    size,
                    write,
                }
            }
            Target::Port(port) => Leave::Io {
                port,
                size,
                input: !write,
                count: 1,
            },
        })
    }
}

/// A part of an operand, in one page.
#[derive(Clone, Copy, Default)]
struct Part {
    gpa: Gpa,
    /// Its first byte in the operand, and the one behind its last.
    start: usize,
    end: usize,
}

/// The access did not happen; [`InKernel::why`] says why.
pub(super) struct Stopped;

/// The guest's CPU and memory, for one instruction.
pub(super) struct InKernel<'a, H: Hal, V: Vendor> {
    cpu: &'a mut GuestCpu<H, V>,
    vm: &'a Vm<H>,
    vendor: &'a V,
    why: Stop,
}

impl<'a, H: Hal, V: Vendor> InKernel<'a, H, V> {
    /// For the instruction that the CPU has noted.
    pub(super) fn new(cpu: &'a mut GuestCpu<H, V>, vm: &'a Vm<H>, vendor: &'a V) -> Self {
        let why = Stop::Unsupported;
        Self {
            cpu,
            vm,
            vendor,
            why,
        }
    }

    /// Notes why the instruction stops.
    fn stop(&mut self, why: Stop) -> Stopped {
        self.why = why;
        Stopped
    }

    /// Notes an error of the host's.
    fn failed(&mut self, error: Error) -> Stopped {
        self.stop(match error {
            Error::Again => Stop::Retry,
            error => Stop::Failed(error),
        })
    }

    /// Translates an address.
    #[inline(never)]
    pub(super) fn gpa(&mut self, linear: u64, wanted: Wanted) -> Result<Gpa, Stopped> {
        let mut tables = GuestTables::new(self.vm, self.cpu.mmu.space());
        match paging::translate(&self.cpu.emulated.registers, &mut tables, linear, wanted) {
            Ok(translation) => Ok(translation.gpa),
            Err(Failure::Fault(exception)) => Err(self.stop(Stop::Exception(exception))),
            Err(Failure::Host(error)) => Err(self.failed(error)),
            Err(Failure::NoMemory(_)) => Err(self.stop(Stop::Unsupported)),
        }
    }

    /// The parts of an operand, the second of which is mostly empty: all of them may be accessed.
    #[inline(never)]
    fn parts(&mut self, linear: u64, len: usize, access: Access) -> Result<[Part; 2], Stopped> {
        let wanted = match access {
            Access::Read => self.wanted(Kind::Read),
            Access::Modify | Access::Probe => self.wanted(Kind::Write),
            Access::System => Wanted::implicit(Kind::Read),
        };
        // The CPU's own accesses have 64-bit addresses in compatibility mode too.
        let long = match wanted.mode {
            Mode::Implicit => self.cpu.emulated.registers.efer.contains(Efer::LMA),
            _ => self.cpu.in_64_bit_code(self.vendor),
        };
        let (first, second) = pieces(linear, len, long);
        let mut parts = [Part::default(); 2];
        if second.is_none()
            && let Some(gpa) = self.hinted(linear, wanted)
        {
            parts[0] = Part {
                gpa,
                start: 0,
                end: len,
            };
            return Ok(parts);
        }
        for (part, piece) in parts.iter_mut().zip([Some(first), second]) {
            if let Some(piece) = piece {
                *part = Part {
                    gpa: self.gpa(piece.linear, wanted)?,
                    start: piece.start,
                    end: piece.end,
                };
            }
        }
        Ok(parts)
    }

    /// Where the operand is by what the hardware said: it has walked the guest's tables, and found
    /// the rights that it needed.
    fn hinted(&self, linear: u64, wanted: Wanted) -> Option<Gpa> {
        let Hint { gpa, write } = self.cpu.emulated.hint?;
        let same = (gpa.0 ^ linear) & (PAGE_SIZE - 1) == 0;
        let allowed =
            wanted.mode != Mode::Implicit && (wanted.kind == Kind::Read || write == Some(true));
        (same && allowed).then_some(gpa)
    }

    pub(super) fn wanted(&mut self, kind: Kind) -> Wanted {
        Wanted::at(self.vendor.cpl(self.cpu.runner.state()), kind)
    }

    /// [`Machine::read`]. What is probed must not be in memory if `refuses`.
    fn reach(
        &mut self,
        linear: u64,
        data: &mut [u8],
        access: Access,
        refuses: bool,
    ) -> Result<(), Stopped> {
        let space = self.cpu.mmu.space();
        for Part { gpa, start, end } in self.parts(linear, data.len(), access)? {
            let part = data.get_mut(start..end).unwrap_or_default();
            if part.is_empty() {
                continue;
            }
            let device = Target::Memory(gpa.0);
            let there = if access == Access::Probe {
                // Where there is no memory a device takes it.
                is_there(self.vm.probe_guest(space, gpa, part.len()))
            } else if self.cpu.devices.is_answered(device) {
                Ok(false)
            } else {
                is_there(self.vm.read_guest(space, gpa, part))
            };
            match there {
                Ok(true) if refuses => return Err(self.stop(Stop::Unsupported)),
                Ok(false) if access != Access::Probe => {
                    if let Err(why) = self.cpu.devices.read(device, part) {
                        return Err(self.stop(why));
                    }
                }
                Ok(_) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// [`Machine::write`]; where `old` is given, [`Machine::compare_exchange`] of an aligned
    /// operand.
    fn put(&mut self, linear: u64, data: &[u8], old: Option<&[u8]>) -> Result<bool, Stopped> {
        let [first, second] = self.parts(linear, data.len(), Access::Modify)?;
        let bytes = |part: Part| data.get(part.start..part.end).unwrap_or_default();
        let pieces = [(first.gpa, bytes(first)), (second.gpa, bytes(second))];
        let space = self.cpu.mmu.space();
        let mut exchanged = true;
        let there = if second.end != 0 {
            self.vm.write_guest_both(space, pieces)
        } else if let (Some(old), Some(width)) = (old, Width::new(data.len())) {
            let (old, new) = (word(old), word(data));
            let seen = self
                .vm
                .compare_exchange_guest(space, first.gpa, width, old, new);
            if let Ok(seen) = seen {
                exchanged = seen == old;
            }
            is_there(seen.map(drop)).map(|there| [there, true])
        } else {
            is_there(self.vm.write_guest(space, first.gpa, data)).map(|there| [there, true])
        };
        let there = match there {
            Ok(there) => there,
            Err(error) => return Err(self.failed(error)),
        };
        for (there, (gpa, bytes)) in there.into_iter().zip(pieces) {
            if !there && let Err(why) = self.cpu.devices.write(Target::Memory(gpa.0), bytes) {
                return Err(self.stop(why));
            }
        }
        Ok(exchanged)
    }
}

/// Up to eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (to, &from) in word.iter_mut().zip(bytes) {
        *to = from;
    }
    u64::from_le_bytes(word)
}

impl<H: Hal, V: Vendor> Machine for InKernel<'_, H, V> {
    fn regs(&mut self) -> &mut Regs {
        self.vendor.regs(self.cpu.runner.state())
    }

    fn segment(&mut self, name: SegmentName) -> Segment {
        self.vendor.segment(self.cpu.runner.state(), name)
    }

    fn cr0(&mut self) -> Cr0 {
        self.cpu.emulated.registers.cr0
    }

    fn cr4(&mut self) -> Cr4 {
        self.cpu.emulated.registers.cr4
    }

    fn efer(&mut self) -> Efer {
        self.cpu.emulated.registers.efer
    }

    fn cpl(&mut self) -> u8 {
        self.vendor.cpl(self.cpu.runner.state())
    }

    fn read(&mut self, linear: u64, data: &mut [u8], access: Access) -> Result<(), Stop> {
        self.reach(linear, data, access, false)
            .map_err(|Stopped| self.why)
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        match self.put(linear, data, None) {
            Ok(_) => Ok(()),
            Err(Stopped) => Err(self.why),
        }
    }

    fn compare_exchange(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        let aligned = linear & (new.len() as u64).wrapping_sub(1) == 0;
        let mut result = Ok(());
        if new.len() > 8 {
            // The host exchanges at most eight bytes in one step. More of them, in memory that
            // others see, would not be one.
            result = self.reach(linear, &mut [0; 16], Access::Probe, true);
        }
        result
            .and_then(|()| self.put(linear, new, aligned.then_some(old)))
            .map_err(|Stopped| self.why)
    }

    fn port_in(&mut self, port: u16, data: &mut [u8]) -> Result<(), Stop> {
        self.cpu.devices.read(Target::Port(port), data)
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        self.cpu.devices.write(Target::Port(port), data)
    }

    fn again(&mut self) -> bool {
        let steps = self.vendor.regs(self.cpu.runner.state()).rflags & Rflags::TF.bits() != 0;
        let cpu_is_idle = self.cpu.devices.is_idle() && self.cpu.events.idle();
        let host = &self.cpu.hal;
        cpu_is_idle && !steps && !host.signal_pending() && !host.should_yield()
    }

    fn has(&mut self, feature: Feature) -> bool {
        let (function, register, bit) = match feature {
            Feature::Movbe => (1, 2, 22),
            Feature::Popcnt => (1, 2, 23),
            Feature::Lzcnt => (0x8000_0001, 2, 5),
            Feature::Tzcnt => (7, 1, 3),
        };
        let answer = self.cpu.cpuid.answer(function, 0);
        answer
            .get(register)
            .is_some_and(|word| word >> bit & 1 != 0)
    }
}
