//! Plain moves between a register and a device: MOV, MOVZX and MOVSX of 64-bit code.
//!
//! That is how devices are accessed nearly always. Such an instruction makes one access to memory,
//! and the hardware has said where that is and that it is allowed. What is left is to find out which
//! bytes move. Everything else [`emulation`](super::emulation) executes.
use waterbear_hal::Hal;
use waterbear_hal::addr::PAGE_SIZE;

use super::emulation::Hint;
use super::exit::Step;
use super::fetch::Code;
use super::leave::Leave;
use super::{GuestCpu, Pending};
use crate::arch::{Rflags, SegmentName};
use crate::emulate::{CodeSize, Instruction, Map, Memory, Prefixes, decode};
use crate::regs::Regs;
use crate::vendor::Vendor;
use crate::vm::Vm;

/// What moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// From memory, to the register.
    Memory {
        /// The sign fills the rest of the register, not zero.
        signed: bool,
    },
    /// From the register.
    Register,
    /// From the instruction.
    Immediate,
}

/// A load that waits for its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Load {
    register: u8,
    /// Bytes of the register.
    size: u8,
    /// Bytes of the access.
    from: u8,
    signed: bool,
    /// Of the instruction.
    length: u8,
}

/// What a plain move moves, and the bytes that it accesses; `None` for another instruction.
fn what(instruction: &Instruction) -> Option<(Source, u8)> {
    let size = instruction.operand_size;
    let first = instruction.extension() == 0;
    Some(match (instruction.map, instruction.opcode) {
        (Map::Primary, 0x88 | 0x89) => (Source::Register, size),
        (Map::Primary, 0x8a | 0x8b) => (Source::Memory { signed: false }, size),
        (Map::Primary, 0xc6 | 0xc7) if first => (Source::Immediate, size),
        (Map::Secondary, 0xb6) => (Source::Memory { signed: false }, 1),
        (Map::Secondary, 0xb7) => (Source::Memory { signed: false }, 2),
        (Map::Secondary, 0xbe) => (Source::Memory { signed: true }, 1),
        (Map::Secondary, 0xbf) => (Source::Memory { signed: true }, 2),
        _ => return None,
    })
}

/// The bits of so many bytes.
fn mask(bytes: u8) -> u64 {
    u64::MAX
        .checked_shr(64 - 8 * u32::from(bytes.min(8)))
        .unwrap_or(0)
}

/// The operand's address, of an instruction that ends at `next`.
fn address(regs: &Regs, memory: &Memory, next: u64) -> u64 {
    let register = |number: Option<u8>| number.map_or(0, |number| regs.get(number));
    memory
        .displacement
        .wrapping_add(register(memory.base))
        .wrapping_add(register(memory.index) << (memory.scale & 3))
        .wrapping_add(if memory.rip_relative { next } else { 0 })
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Does the instruction at RIP, whose access at `hint` is a device's, if it is a plain move.
    pub(super) fn move_plainly(&mut self, vm: &Vm<H>, vendor: &V, hint: Hint) -> Option<Step> {
        if self.events.again.is_some() {
            return None;
        }
        let code = Code::of(self.glance(vm, vendor)?);
        let instruction = decode(code.bytes(), CodeSize::Bits64).ok()?;
        let (source, size) = what(&instruction)?;
        let memory = instruction.memory.as_ref()?;
        let odd = Prefixes::LOCK | Prefixes::REP | Prefixes::REPNE | Prefixes::ADDRESS;
        // AH and the like.
        let high = source != Source::Immediate
            && instruction.map == Map::Primary
            && size == 1
            && matches!(instruction.reg, 4..=7)
            && !instruction.has(Prefixes::REX);
        let based = matches!(memory.segment, SegmentName::Fs | SegmentName::Gs);
        if instruction.prefixes.intersects(odd) || high || based {
            return None;
        }
        let regs = vendor.regs(self.runner.state());
        let length = instruction.length;
        let linear = address(regs, memory, regs.rip.wrapping_add(length.into()));
        let Hint { gpa, write } = hint;
        let offset = gpa.0 & (PAGE_SIZE - 1);
        let load = matches!(source, Source::Memory { .. });
        let same = (linear ^ gpa.0) & (PAGE_SIZE - 1) == 0
            && offset + u64::from(size) <= PAGE_SIZE
            && write != load;
        // The user's accesses may have to be aligned.
        if !same || regs.rflags & Rflags::AC.bits() != 0 {
            return None;
        }
        let mut data = 0;
        match source {
            Source::Memory { signed } => {
                self.pending = Pending::Load(Load {
                    register: instruction.reg,
                    size: instruction.operand_size,
                    from: size,
                    signed,
                    length,
                });
            }
            Source::Register => data = regs.get(instruction.reg),
            Source::Immediate => data = instruction.immediate,
        }
        if !load {
            // It has happened; its device hears of it.
            self.skip(vendor, length);
        }
        self.len = usize::from(size);
        self.put_data(&data.to_le_bytes());
        Some(Step::Leave(Leave::Mmio {
            gpa,
            size,
            write: !load,
        }))
    }

    /// The device has answered.
    pub(super) fn complete_load(&mut self, vendor: &V, load: Load) {
        let answer = self.answer() & mask(load.from);
        let unused = 64 - 8 * u32::from(load.from.clamp(1, 8));
        let value = if load.signed {
            ((answer << unused) as i64 >> unused) as u64
        } else {
            answer
        };
        let regs = vendor.regs(self.runner.state());
        let kept = match load.size {
            1 | 2 => regs.get(load.register) & !mask(load.size),
            _ => 0,
        };
        regs.set(load.register, kept | value & mask(load.size));
        self.skip(vendor, load.length);
    }
}
