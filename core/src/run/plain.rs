//! Plain moves between a register and a device: MOV, MOVZX and MOVSX of 64-bit code.
//!
//! That is how devices are accessed nearly always. Such an instruction makes one access to memory,
//! and the hardware has said where that is and that it is allowed. What is left is to find out which
//! bytes move. Everything else [`emulation`](super::emulation) executes.
use waterbear_hal::Hal;
use waterbear_hal::addr::PAGE_SIZE;

use super::emulation::Hint;
use super::exit::Step;
use super::glance::Glance;
use super::leave::Leave;
use super::{GuestCpu, Pending};
use crate::arch::Rflags;
use crate::emulate::Target;
use crate::regs::Regs;
use crate::vendor::Vendor;
use crate::vm::Vm;

/// What moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// From memory, zero-extended.
    Memory,
    /// From memory, sign-extended.
    Signed,
    /// From the register.
    Register,
    /// From the instruction.
    Immediate,
}

/// A plain move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Move {
    source: Source,
    /// The register.
    register: u8,
    /// Bytes of the register.
    size: u8,
    /// Bytes of memory.
    access: u8,
    /// Of the instruction.
    length: u8,
}

/// The bytes of an instruction.
struct Bytes {
    code: [u8; 16],
    at: usize,
}

impl Bytes {
    fn peek(&self) -> u8 {
        self.code.get(self.at).copied().unwrap_or(0)
    }

    fn next(&mut self) -> u8 {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    /// A number of 1, 2 or 4 bytes, sign-extended.
    fn number(&mut self, size: u8) -> u64 {
        if size == 1 {
            return self.next() as i8 as u64;
        }
        let rest = self.code.get(self.at..).unwrap_or_default();
        let four = rest
            .first_chunk()
            .map_or(0, |four| i32::from_le_bytes(*four));
        self.at += usize::from(size);
        if size == 2 {
            four as i16 as u64
        } else {
            four as u64
        }
    }
}

/// Source: Intel SDM volume 2, "Instruction Format" and "MOV—Move"; "MOVZX", "MOVSX".
///
/// Returns the move, the address of its operand and its immediate; `None` for another instruction,
/// and for a form that is rare: with a prefix other than 66 and REX behind it, or with AH and the
/// like.
fn decode([low, high]: Glance, regs: &Regs) -> Option<(Move, u64, u64)> {
    const OPERAND: u8 = 0x66;
    const REX: u8 = 0x40;
    let code = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    let mut bytes = Bytes { code, at: 0 };
    let mut opcode = bytes.next();
    let mut full = 4;
    if opcode == OPERAND {
        full = 2;
        opcode = bytes.next();
    }
    let mut rex = 0;
    if opcode & 0xf0 == REX {
        rex = opcode;
        opcode = bytes.next();
    }
    if rex & 8 != 0 {
        full = 8;
    }
    let (source, size, access) = match opcode {
        0x88 => (Source::Register, 1, 1),
        0x89 => (Source::Register, full, full),
        0x8a => (Source::Memory, 1, 1),
        0x8b => (Source::Memory, full, full),
        0xc6 => (Source::Immediate, 1, 1),
        0xc7 => (Source::Immediate, full, full),
        0x0f => match bytes.next() {
            0xb6 => (Source::Memory, full, 1),
            0xb7 => (Source::Memory, full, 2),
            0xbe => (Source::Signed, full, 1),
            0xbf => (Source::Signed, full, 2),
            _ => return None,
        },
        _ => return None,
    };
    let modrm = bytes.next();
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let register = modrm >> 3 & 7 | (rex & 4) << 1;
    let high_byte = size == 1 && rex == 0 && register >= 4;
    let other = if source == Source::Immediate {
        modrm & 0x38 != 0
    } else {
        high_byte
    };
    if mode == 3 || other {
        return None;
    }
    let mut base = rm;
    let mut linear = 0;
    if rm == 4 {
        let sib = bytes.next();
        base = sib & 7;
        let index = sib >> 3 & 7 | (rex & 2) << 2;
        if index != 4 {
            linear = regs.get(index) << (sib >> 6);
        }
    }
    let no_base = mode == 0 && base == 5;
    if !no_base {
        linear = regs.get(base | (rex & 1) << 3).wrapping_add(linear);
    }
    if mode == 1 {
        linear = linear.wrapping_add(bytes.number(1));
    } else if mode == 2 || no_base {
        linear = linear.wrapping_add(bytes.number(4));
    }
    let immediate = match source {
        Source::Immediate => bytes.number(size.min(4)),
        _ => 0,
    };
    let length = bytes.at as u8;
    if no_base && rm != 4 {
        // From the end of the instruction.
        linear = linear.wrapping_add(regs.rip).wrapping_add(length.into());
    }
    let decoded = Move {
        source,
        register,
        size,
        access,
        length,
    };
    Some((decoded, linear, immediate))
}

/// Whether an address is canonical where linear addresses have 48 bits. With more of them this is
/// enough, too.
fn is_canonical(linear: u64) -> bool {
    (linear << 16) as i64 >> 16 == linear as i64
}

/// The bits of so many bytes, at least one.
fn mask(bytes: u8) -> u64 {
    u64::MAX >> (64_u32.saturating_sub(8 * u32::from(bytes)) & 63)
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Does the instruction at RIP, whose access at `hint` is a device's, if it is a plain move.
    pub(super) fn move_plainly(&mut self, vm: &Vm<H>, vendor: &V, hint: Hint) -> Option<Step> {
        // Then what was accessed is no operand.
        if self.events.again.is_some() {
            return None;
        }
        let code = self.glance(vm, vendor)?;
        let regs = vendor.regs(self.runner.state());
        let (decoded, linear, immediate) = decode(code, regs)?;
        let size = decoded.access;
        let gpa = hint.gpa;
        let write = match decoded.source {
            Source::Memory | Source::Signed => false,
            Source::Register | Source::Immediate => true,
        };
        let offset = linear & (PAGE_SIZE - 1);
        // The access that the CPU speaks of, all of it; and no alignment that it would have checked.
        let same = (linear ^ gpa.0) & (PAGE_SIZE - 1) == 0
            && offset + u64::from(size) <= PAGE_SIZE
            && hint.write.is_none_or(|told| told == write);
        if !same || regs.rflags & Rflags::AC.bits() != 0 {
            return None;
        }
        let data = match decoded.source {
            Source::Immediate => immediate,
            _ => regs.get(decoded.register),
        };
        // The CPU has found that it may do what it did. That this was a store is only what the bytes
        // say, which may be others by now: then it has to be found out again that it is allowed.
        let unproved = write && hint.write.is_none();
        if unproved && !(is_canonical(linear) && self.may_write(vm, vendor, linear, gpa)) {
            return None;
        }
        self.len = usize::from(size);
        if write {
            // It has happened, and its device hears of it.
            self.put_word(data);
            self.skip(vendor, decoded.length);
            if vm.bus().write(Target::Memory(gpa.0), self.data()) {
                return Some(Step::Resume);
            }
        } else {
            self.put_word(0);
            self.pending = Pending::Load(decoded);
        }
        Some(Step::Leave(Leave::Mmio { gpa, size, write }))
    }

    /// The device has answered.
    pub(super) fn complete_load(&mut self, vendor: &V, load: Move) {
        let mut value = self.answer() & mask(load.access);
        if load.source == Source::Signed {
            let sign = (mask(load.access) >> 1).wrapping_add(1);
            value = (value ^ sign).wrapping_sub(sign);
        }
        let regs = vendor.regs(self.runner.state());
        let kept = match load.size {
            1 | 2 => regs.get(load.register) & !mask(load.size),
            _ => 0,
        };
        regs.set(load.register, kept | value & mask(load.size));
        self.skip(vendor, load.length);
    }
}
