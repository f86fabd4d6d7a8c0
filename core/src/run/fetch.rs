//! The bytes of the instruction that left the guest, for CPUs that do not tell its length or its
//! operands.
use waterbear_hal::Hal;

use super::GuestCpu;
use super::control::GP;
use super::exit::Step;
use super::glance::{Glance, glance, known_length};
use super::leave::Leave;
use crate::Error;
use crate::arch::SegmentName;
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
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Why there is no instruction.
pub(super) enum NoInstruction {
    /// What the CPU fetched is no longer there: the guest runs again and sees for itself.
    Changed,
    /// The bytes are none that are known.
    Unknown,
    /// It is too long: the CPU refuses it with #GP.
    TooLong,
    /// The host could not.
    Failed(Error),
}

impl From<Failure> for NoInstruction {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Host(Error::Again) | Failure::Fault(_) => Self::Changed,
            Failure::NoMemory(_) => Self::Unknown,
            Failure::Host(error) => Self::Failed(error),
        }
    }
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// The length of the instruction that left the guest, as the CPU tells it or as its bytes do.
    pub(super) fn length(&mut self, vm: &Vm<H>, vendor: &V) -> Result<u8, NoInstruction> {
        match vendor.length(self.runner.state()) {
            0 => match self.glance(vm, vendor).as_ref().map(known_length) {
                None | Some(0) => Ok(self.instruction(vm, vendor)?.length),
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
    pub(super) fn instruction(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
    ) -> Result<Instruction, NoInstruction> {
        self.instruction_by(vm, vendor, None)
    }

    /// The same, for who may have asked what decides translations.
    #[cold]
    #[inline(never)]
    pub(super) fn instruction_by(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        registers: Option<&Registers>,
    ) -> Result<Instruction, NoInstruction> {
        let efer = self.efer(vendor);
        let cs = vendor.segment(self.runner.state(), SegmentName::Cs);
        let size = code_size(efer, &cs);
        // First what is to be had without a walk.
        self.glance_or_fetched(vm, vendor);
        let state = self.runner.state();
        let rip = vendor.regs(state).rip;
        let access = Access::at(vendor.cpl(state), Kind::Fetch);
        let mut tables = GuestTables::new(vm, self.mmu.space());
        let mut asked = Registers::default();
        let mut walks = false;
        loop {
            match decode(self.code.bytes(), size) {
                Ok(instruction) => return Ok(instruction),
                Err(_) if !walks => {
                    self.code.len = 0;
                    if registers.is_none() {
                        asked = self.paging(vm, vendor);
                    }
                }
                Err(DecodeError::More) if self.code.len < MAX_LENGTH => {}
                Err(DecodeError::TooLong) => return Err(NoInstruction::TooLong),
                Err(_) => return Err(NoInstruction::Unknown),
            }
            walks = true;
            // As far as this page goes; the next one only if the instruction goes on there.
            let len = self.code.len;
            let mut at = rip.wrapping_add(len as u64);
            if size != CodeSize::Bits64 {
                at = cs.base.wrapping_add(at) & 0xffff_ffff;
            }
            let room = (0x1000 - (at & 0xfff)) as usize;
            let end = MAX_LENGTH.min(len + room);
            let registers = registers.unwrap_or(&asked);
            let gpa = paging::translate(registers, &mut tables, at, access)?.gpa;
            let part = self.code.bytes.get_mut(len..end).unwrap_or_default();
            tables.read_in_page(gpa, part).map_err(Failure::from)?;
            self.code.len = end;
        }
    }

    /// The bytes that the CPU has fetched, if it tells, or else a glance, or none.
    fn glance_or_fetched(&mut self, vm: &Vm<H>, vendor: &V) {
        let fetched = vendor.fetched(self.runner.state());
        self.code.len = fetched.len().min(MAX_LENGTH);
        for (to, &from) in self.code.bytes.iter_mut().zip(fetched) {
            *to = from;
        }
        if self.code.len == 0
            && let Some([low, high]) = self.glance(vm, vendor)
        {
            self.code.bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
            self.code.len = MAX_LENGTH;
        }
    }

    /// Goes back to the guest, or to the owner, when an instruction is not to be had.
    #[cold]
    pub(super) fn without_instruction(&mut self, why: NoInstruction) -> Result<Step, Error> {
        match why {
            NoInstruction::Changed => Ok(Step::Resume),
            NoInstruction::Unknown => Ok(self.emulation_failed()),
            NoInstruction::TooLong => {
                self.events.raise(GP);
                Ok(Step::Resume)
            }
            NoInstruction::Failed(error) => Err(error),
        }
    }

    /// An instruction that nobody emulates, of which the owner gets the bytes.
    pub(super) fn emulation_failed(&mut self) -> Step {
        self.stats.add(Count::EmulationFailed);
        self.len = self.code.len;
        for (to, &from) in self.data.iter_mut().zip(self.code.bytes()) {
            *to = from;
        }
        Step::Leave(Leave::EmulationFailed)
    }
}
