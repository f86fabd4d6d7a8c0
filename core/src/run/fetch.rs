//! The bytes of the instruction that left the guest, for CPUs that do not tell its length or its
//! operands.
use waterbear_hal::Hal;

use super::GuestCpu;
use super::control::GP;
use super::exit::Step;
use super::glance::{Glance, glance, known_length};
use super::leave::Leave;
use crate::Error;
use crate::MemoryError;
use crate::arch::{Exception, SegmentName};
use crate::emulate::{CodeSize, DecodeError, Instruction, MAX_LENGTH, code_size, decode};
use crate::paging::{self, Access, Failure, Kind, Registers};
use crate::stats::Count;
use crate::vendor::Vendor;
use crate::vm::{GuestTables, Vm};

/// The bytes at RIP, as many as could be had.
#[derive(Clone, Copy, Default)]
pub(super) struct Code {
    bytes: [u8; MAX_LENGTH + 1],
    len: usize,
}

impl Code {
    fn of([low, high]: Glance) -> Self {
        Self {
            bytes: (u128::from(high) << 64 | u128::from(low)).to_le_bytes(),
            len: MAX_LENGTH,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Why there is no instruction.
pub(super) enum NoInstruction {
    /// What the CPU fetched is no longer there: the guest runs again and sees for itself.
    Changed,
    /// The bytes are none that are known.
    Unknown(Code),
    /// The CPU refuses it.
    Refused(Exception),
    /// The host could not.
    Failed(Error),
}

impl From<Failure> for NoInstruction {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Host(Error::Again) | Failure::Fault(_) => Self::Changed,
            Failure::NoMemory(_) => Self::Unknown(Code::default()),
            Failure::Host(error) => Self::Failed(error),
        }
    }
}

impl From<MemoryError> for NoInstruction {
    fn from(error: MemoryError) -> Self {
        Failure::from(error).into()
    }
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// The length of the instruction that left the guest, as the CPU tells it or as its bytes do.
    pub(super) fn length(&mut self, vm: &Vm<H>, vendor: &V) -> Result<u8, NoInstruction> {
        match vendor.length(self.runner.state()) {
            0 => match self.glance(vm, vendor).as_ref().map(known_length) {
                None | Some(0) => Ok(self.instruction(vm, vendor)?.0.length),
                Some(length) => Ok(length),
            },
            length => Ok(length),
        }
    }

    /// A glance at the instruction.
    pub(super) fn glance(&mut self, vm: &Vm<H>, vendor: &V) -> Option<Glance> {
        let (space, bits) = (self.mmu.space(), self.features.physical_bits);
        glance(
            vm,
            space,
            vendor,
            self.runner.state(),
            bits,
            &mut self.walked,
        )
    }

    /// The instruction that left the guest.
    #[cold]
    pub(super) fn instruction(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
    ) -> Result<(Instruction, Code), NoInstruction> {
        let size = self.code_size(vendor);
        match self.fetched(vendor, size) {
            Some(fetched) => Ok(fetched),
            None => {
                let registers = self.paging(vm, vendor);
                self.fetch(vm, vendor, size, &registers)
            }
        }
    }

    /// The same, for who has asked what decides translations.
    pub(super) fn instruction_by(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        registers: &Registers,
    ) -> Result<(Instruction, Code), NoInstruction> {
        let size = self.code_size(vendor);
        match self.fetched(vendor, size) {
            Some(fetched) => Ok(fetched),
            None => self.fetch(vm, vendor, size, registers),
        }
    }

    fn code_size(&mut self, vendor: &V) -> CodeSize {
        let efer = self.efer(vendor);
        let cs = vendor.segment(self.runner.state(), SegmentName::Cs);
        code_size(efer, &cs)
    }

    /// The instruction in the bytes that the CPU has fetched, if it tells and they are enough.
    fn fetched(&mut self, vendor: &V, size: CodeSize) -> Option<(Instruction, Code)> {
        let fetched = vendor.fetched(self.runner.state());
        if fetched.is_empty() {
            return None;
        }
        let mut code = Code {
            len: fetched.len().min(MAX_LENGTH),
            ..Code::default()
        };
        for (to, &from) in code.bytes.iter_mut().zip(fetched) {
            *to = from;
        }
        let instruction = decode(code.bytes(), size).ok()?;
        Some((instruction, code))
    }

    /// The instruction in the guest's memory.
    fn fetch(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        size: CodeSize,
        registers: &Registers,
    ) -> Result<(Instruction, Code), NoInstruction> {
        if let Some(words) = self.glance(vm, vendor) {
            let code = Code::of(words);
            if let Ok(instruction) = decode(code.bytes(), size) {
                return Ok((instruction, code));
            }
        }
        let state = self.runner.state();
        let rip = vendor.regs(state).rip;
        let linear = match size {
            CodeSize::Bits64 => rip,
            _ => {
                let cs = vendor.segment(state, SegmentName::Cs);
                cs.base.wrapping_add(rip) & 0xffff_ffff
            }
        };
        let access = Access::at(vendor.cpl(state), Kind::Fetch);
        let mut tables = GuestTables::new(vm, self.mmu.space());
        let mut code = Code::default();
        loop {
            // As far as this page goes; the next one only if the instruction goes on there.
            let at = linear.wrapping_add(code.len as u64);
            let room = (0x1000 - (at & 0xfff)) as usize;
            let end = MAX_LENGTH.min(code.len + room);
            let gpa = paging::translate(registers, &mut tables, at, access)?.gpa;
            let part = code.bytes.get_mut(code.len..end).unwrap_or_default();
            tables.read_in_page(gpa, part)?;
            code.len = end;
            match decode(code.bytes(), size) {
                Ok(instruction) => return Ok((instruction, code)),
                Err(DecodeError::More) if end < MAX_LENGTH => {}
                Err(DecodeError::TooLong) => return Err(NoInstruction::Refused(GP)),
                Err(_) => return Err(NoInstruction::Unknown(code)),
            }
        }
    }

    /// Goes back to the guest, or to the owner, when an instruction is not to be had.
    #[cold]
    pub(super) fn without_instruction(&mut self, why: NoInstruction) -> Result<Step, Error> {
        match why {
            NoInstruction::Changed => Ok(Step::Resume),
            NoInstruction::Unknown(code) => Ok(self.emulation_failed(&code)),
            NoInstruction::Refused(exception) => {
                self.events.raise(exception);
                Ok(Step::Resume)
            }
            NoInstruction::Failed(error) => Err(error),
        }
    }

    /// An instruction that nobody emulates.
    pub(super) fn emulation_failed(&mut self, code: &Code) -> Step {
        self.stats.add(Count::EmulationFailed);
        self.len = code.len;
        self.put_data(code.bytes());
        Step::Leave(Leave::EmulationFailed)
    }
}
