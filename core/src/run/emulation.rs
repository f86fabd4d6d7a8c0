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
use crate::arch::{Cr0, Cr4, Efer, Rflags, Segment, SegmentName};
use crate::emulate::{
    Access, Done, Feature, Fragment, Instruction, Machine, Map, Stop, Target, execute, pieces,
};
use crate::paging::{self, Access as Wanted, Failure, Kind, Mode, Registers};
use crate::regs::Regs;
use crate::stats::Count;
use crate::vendor::Vendor;
use crate::vm::{GuestTables, Vm};
use crate::{Error, MemoryError};

/// How often an instruction that meets changes is executed again before the guest tries it.
const ATTEMPTS: u32 = 8;

/// The access for which the hardware left the guest.
#[derive(Clone, Copy)]
pub(super) struct Hint {
    /// Its address.
    pub(super) gpa: Gpa,
    /// It was a write.
    pub(super) write: bool,
}

/// An instruction that is executed here.
#[derive(Clone, Copy)]
pub(super) struct Emulated {
    instruction: Instruction,
    code: Code,
    hint: Option<Hint>,
    /// What decides translations; no instruction that is executed here changes it.
    registers: Registers,
}

impl Emulated {
    pub(super) fn instruction(&self) -> &Instruction {
        &self.instruction
    }
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
            return Ok(self.emulation_failed(&Code::default()));
        }
        let registers = self.paging(vm, vendor);
        match self.instruction_by(vm, vendor, &registers) {
            Ok((instruction, code)) => {
                self.devices.finish();
                let hint = hint.filter(|_| has_one_operand_in_memory(&instruction));
                let emulated = Emulated {
                    instruction,
                    code,
                    hint,
                    registers,
                };
                if let Some(step) = self.ask_together(vm, vendor, &emulated) {
                    return Ok(step);
                }
                self.devices.finish();
                self.perform(vm, vendor, emulated)
            }
            Err(why) => self.without_instruction(why),
        }
    }

    /// Executes an instruction as far as the devices have answered.
    pub(super) fn perform(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        emulated: Emulated,
    ) -> Result<Step, Error> {
        let steps = vendor.regs(self.runner.state()).rflags & Rflags::TF.bits() != 0;
        let mut result = Err(Stop::Retry);
        for _ in 0..ATTEMPTS {
            self.devices.begin();
            let mut machine = InKernel::new(self, vm, vendor, &emulated);
            result = execute(&emulated.instruction, &mut machine);
            if result != Err(Stop::Retry) {
                break;
            }
        }
        if result == Err(Stop::Device)
            && let Some(question) = self.devices.question()
        {
            self.pending = Pending::Read;
            self.emulated = Some(emulated);
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
            Err(Stop::Unsupported | Stop::Device) => Ok(self.emulation_failed(&emulated.code)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// The device has answered.
    pub(super) fn complete_read(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Step, Error> {
        let data = self.data.get(..self.len).unwrap_or_default();
        self.devices.answer(data);
        match self.emulated.take() {
            Some(emulated) => self.perform(vm, vendor, emulated),
            None => Ok(Step::Resume),
        }
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
#[derive(Clone, Copy)]
struct Part {
    gpa: Gpa,
    /// Its first byte in the operand, and the one behind its last.
    start: usize,
    end: usize,
}

/// The guest's CPU and memory, for one instruction.
pub(super) struct InKernel<'a, H: Hal, V: Vendor> {
    cpu: &'a mut GuestCpu<H, V>,
    vm: &'a Vm<H>,
    vendor: &'a V,
    registers: &'a Registers,
    /// What the hardware said about the operand.
    hint: Option<Hint>,
}

/// What an error of the host's means for the instruction.
fn failed(error: Error) -> Stop {
    match error {
        Error::Again => Stop::Retry,
        error => Stop::Failed(error),
    }
}

impl<'a, H: Hal, V: Vendor> InKernel<'a, H, V> {
    pub(super) fn new(
        cpu: &'a mut GuestCpu<H, V>,
        vm: &'a Vm<H>,
        vendor: &'a V,
        emulated: &'a Emulated,
    ) -> Self {
        Self {
            cpu,
            vm,
            vendor,
            registers: &emulated.registers,
            hint: emulated.hint,
        }
    }

    pub(super) fn gpa(&mut self, linear: u64, wanted: Wanted) -> Result<Gpa, Stop> {
        let space = self.cpu.mmu.space();
        let mut tables = GuestTables::new(self.vm, space);
        match paging::translate(self.registers, &mut tables, linear, wanted) {
            Ok(translation) => Ok(translation.gpa),
            Err(Failure::Fault(exception)) => Err(Stop::Exception(exception)),
            Err(Failure::Host(error)) => Err(failed(error)),
            Err(Failure::NoMemory(_)) => Err(Stop::Unsupported),
        }
    }

    /// The parts of an operand, each with where it is: all of them may be accessed.
    fn parts(
        &mut self,
        linear: u64,
        len: usize,
        wanted: Wanted,
    ) -> Result<[Option<Part>; 2], Stop> {
        // The CPU's own accesses have 64-bit addresses in compatibility mode too.
        let long = match wanted.mode {
            Mode::Implicit => self.registers.efer.contains(Efer::LMA),
            _ => self.cpu.in_64_bit_code(self.vendor),
        };
        let (first, second) = pieces(linear, len, long);
        let mut parts = [None; 2];
        if second.is_none()
            && let Some(gpa) = self.hinted(linear, wanted)
        {
            parts[0] = Some(Part {
                gpa,
                start: first.start,
                end: first.end,
            });
            return Ok(parts);
        }
        for (part, piece) in parts.iter_mut().zip([Some(first), second]) {
            if let Some(piece) = piece {
                *part = Some(Part {
                    gpa: self.gpa(piece.linear, wanted)?,
                    start: piece.start,
                    end: piece.end,
                });
            }
        }
        Ok(parts)
    }

    /// Finds out what the host would say of a write.
    fn probe(&mut self, parts: [Option<Part>; 2]) -> Result<(), Stop> {
        let space = self.cpu.mmu.space();
        for Part { gpa, start, end } in parts.into_iter().flatten() {
            // Where there is no memory a device takes it.
            let found = self.vm.probe_guest(space, gpa, end.saturating_sub(start));
            if let Err(MemoryError::Host(error)) = found {
                return Err(failed(error));
            }
        }
        Ok(())
    }

    /// The host exchanges at most eight bytes in one step. More of them, in memory that others see,
    /// would not be one.
    fn refuse_memory(&mut self, linear: u64, len: usize, wanted: Wanted) -> Result<(), Stop> {
        let space = self.cpu.mmu.space();
        for Part { gpa, start, end } in self.parts(linear, len, wanted)?.into_iter().flatten() {
            match self.vm.probe_guest(space, gpa, end.saturating_sub(start)) {
                Ok(()) => return Err(Stop::Unsupported),
                Err(MemoryError::Host(error)) => return Err(failed(error)),
                Err(MemoryError::Missing(_) | MemoryError::ReadOnly(_)) => {}
            }
        }
        Ok(())
    }

    /// Where the operand is by what the hardware said: it has walked the guest's tables, and found
    /// the rights that it needed.
    fn hinted(&self, linear: u64, wanted: Wanted) -> Option<Gpa> {
        let Hint { gpa, write } = self.hint?;
        let same = (gpa.0 ^ linear) & (PAGE_SIZE - 1) == 0;
        let allowed = wanted.mode != Mode::Implicit && (wanted.kind == Kind::Read || write);
        (same && allowed).then_some(gpa)
    }

    pub(super) fn wanted(&mut self, kind: Kind) -> Wanted {
        Wanted::at(self.vendor.cpl(self.cpu.runner.state()), kind)
    }
}

impl<H: Hal, V: Vendor> Machine for InKernel<'_, H, V> {
    fn regs(&mut self) -> &mut Regs {
        self.vendor.regs(self.cpu.runner.state())
    }

    fn segment(&mut self, name: SegmentName) -> Segment {
        self.vendor.segment(self.cpu.runner.state(), name)
    }

    fn cr0(&mut self) -> Cr0 {
        self.registers.cr0
    }

    fn cr4(&mut self) -> Cr4 {
        self.registers.cr4
    }

    fn efer(&mut self) -> Efer {
        self.registers.efer
    }

    fn cpl(&mut self) -> u8 {
        self.vendor.cpl(self.cpu.runner.state())
    }

    fn read(&mut self, linear: u64, data: &mut [u8], access: Access) -> Result<(), Stop> {
        let wanted = match access {
            Access::Read => self.wanted(Kind::Read),
            Access::Modify | Access::Probe => self.wanted(Kind::Write),
            Access::System => Wanted::implicit(Kind::Read),
        };
        let parts = self.parts(linear, data.len(), wanted)?;
        if access == Access::Probe {
            return self.probe(parts);
        }
        for Part { gpa, start, end } in parts.into_iter().flatten() {
            let part = data.get_mut(start..end).unwrap_or_default();
            let device = Target::Memory(gpa.0);
            if self.cpu.devices.is_answered(device) {
                self.cpu.devices.read(device, part)?;
                continue;
            }
            match self.vm.read_guest(self.cpu.mmu.space(), gpa, part) {
                Ok(()) => {}
                Err(MemoryError::Host(error)) => return Err(failed(error)),
                Err(MemoryError::Missing(_) | MemoryError::ReadOnly(_)) => {
                    self.cpu.devices.read(device, part)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        let wanted = self.wanted(Kind::Write);
        let parts = self.parts(linear, data.len(), wanted)?;
        let space = self.cpu.mmu.space();
        let bytes = |part: Part| data.get(part.start..part.end).unwrap_or_default();
        let [Some(first), second] = parts else {
            return Ok(());
        };
        let first = (first.gpa, bytes(first));
        let Some(second) = second else {
            return match self.vm.write_guest(space, first.0, first.1) {
                Ok(()) => Ok(()),
                Err(MemoryError::Host(error)) => Err(failed(error)),
                Err(MemoryError::Missing(_) | MemoryError::ReadOnly(_)) => {
                    self.cpu.devices.write(Target::Memory(first.0.0), first.1)
                }
            };
        };
        let pieces = [first, (second.gpa, bytes(second))];
        let there = self.vm.write_guest_both(space, pieces).map_err(failed)?;
        for (there, (gpa, bytes)) in there.into_iter().zip(pieces) {
            if !there {
                self.cpu.devices.write(Target::Memory(gpa.0), bytes)?;
            }
        }
        Ok(())
    }

    fn compare_exchange(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        let aligned = Width::new(new.len()).filter(|w| linear.is_multiple_of(w.bytes() as u64));
        let wanted = self.wanted(Kind::Write);
        let Some(width) = aligned else {
            if new.len() > 8 {
                self.refuse_memory(linear, new.len(), wanted)?;
            }
            return self.write(linear, new).map(|()| true);
        };
        let gpa = self.gpa(linear, wanted)?;
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            for (to, &from) in word.iter_mut().zip(bytes) {
                *to = from;
            }
            u64::from_le_bytes(word)
        };
        let (before, after) = (word(old), word(new));
        let space = self.cpu.mmu.space();
        match self
            .vm
            .compare_exchange_guest(space, gpa, width, before, after)
        {
            Ok(seen) => Ok(seen == before),
            Err(MemoryError::Host(error)) => Err(failed(error)),
            Err(MemoryError::Missing(_) | MemoryError::ReadOnly(_)) => {
                self.cpu.devices.write(Target::Memory(gpa.0), new)?;
                Ok(true)
            }
        }
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
