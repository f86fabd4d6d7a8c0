//! Registers and addresses of one instruction.
//!
//! Source: Intel SDM volume 3, "Protection" and "Alignment Check Exception"; AMD APM volume 2,
//! "Segmented Virtual Memory".
use super::instruction::{CodeSize, Instruction, Map, Memory, Prefixes};
use super::machine::{Machine, Stop};
use crate::arch::{Attributes, Cr0, Cr4, Efer, Exception, Rflags, Segment, SegmentName};
use crate::regs::Regs;

/// The size of operands and addresses that code has now, from the registers that decide.
pub fn code_size(efer: Efer, cs: &Segment) -> CodeSize {
    if efer.contains(Efer::LMA) && cs.attributes.contains(Attributes::LONG) {
        CodeSize::Bits64
    } else if cs.attributes.contains(Attributes::BIG) {
        CodeSize::Bits32
    } else {
        CodeSize::Bits16
    }
}

/// An instruction and the state it works on. What it does is done to a copy of the registers.
pub(super) struct Cpu<'a> {
    pub(super) instruction: &'a Instruction,
    pub(super) regs: Regs,
    /// Where RIP goes.
    pub(super) next: u64,
    /// The guest has the feature that the instruction's meaning depends on.
    pub(super) has_feature: bool,
    /// The target stays as it is.
    pub(super) keep_target: bool,
    pub(super) cpl: u8,
    /// 64-bit mode.
    pub(super) long: bool,
    /// Segments have types and exceptions have error codes.
    protected: bool,
    checks_alignment: bool,
    /// Bits of a linear address in 64-bit mode.
    linear_bits: u32,
    /// The stack segment and ES, where the instruction uses them by itself, and that of its memory
    /// operand.
    stack: Segment,
    extra: Segment,
    operand: Segment,
    /// The segment of the memory operand.
    name: SegmentName,
    /// The limit of CS.
    code_limit: u32,
    /// The selector that a MOV stores; none for other instructions.
    pub(super) selector: Option<u16>,
}

impl<'a> Cpu<'a> {
    /// Fetches what the instruction needs to know.
    pub(super) fn new(instruction: &'a Instruction, machine: &mut impl Machine) -> Self {
        let (cr0, efer) = (machine.cr0(), machine.efer());
        let cs = machine.segment(SegmentName::Cs);
        let long = code_size(efer, &cs) == CodeSize::Bits64;
        let regs = *machine.regs();
        let cpl = machine.cpl();
        let next = regs.rip.wrapping_add(u64::from(instruction.length));
        let rflags = Rflags::from_bits_retain(regs.rflags);
        let (stack, extra) = super::operation::implied_segments(instruction);
        let name = match instruction.memory {
            Some(memory) => memory.segment,
            None => instruction.segment.unwrap_or(SegmentName::Ds),
        };
        let mut fetch = |needed: bool, name| {
            let has_base = !long || matches!(name, SegmentName::Fs | SegmentName::Gs);
            if needed && has_base {
                machine.segment(name)
            } else {
                Segment::default()
            }
        };
        let stack = fetch(stack, SegmentName::Ss);
        let xlat = instruction.map == Map::Primary && instruction.opcode == 0xd7;
        let operand = fetch(instruction.memory.is_some() || extra || xlat, name);
        let extra = fetch(extra, SegmentName::Es);
        let stores_selector = instruction.map == Map::Primary && instruction.opcode == 0x8c;
        let stored = SegmentName::ALL.get(usize::from(instruction.extension()));
        let selector = match stored {
            // The first six have numbers in instructions.
            Some(&name) if stores_selector && instruction.extension() < 6 => {
                Some(machine.segment(name).selector)
            }
            _ => None,
        };
        let la57 = long && machine.cr4().contains(Cr4::LA57);
        Self {
            instruction,
            regs,
            next: if long { next } else { next & mask(4) },
            has_feature: true,
            keep_target: false,
            cpl,
            long,
            protected: cr0.contains(Cr0::PE) && !rflags.contains(Rflags::VM),
            checks_alignment: cpl == 3 && cr0.contains(Cr0::AM) && rflags.contains(Rflags::AC),
            linear_bits: if la57 { 57 } else { 48 },
            stack,
            extra,
            operand,
            name,
            code_limit: cs.limit,
            selector,
        }
    }

    /// A general register's low bytes.
    #[inline(never)]
    pub(super) fn register(&self, number: u8, size: u8) -> u64 {
        if self.is_high_byte(number, size) {
            return self.general(number & 3) >> 8 & 0xff;
        }
        self.general(number) & mask(size)
    }

    /// Sets a general register's low bytes. Four of them clear the upper half.
    #[inline(never)]
    pub(super) fn set_register(&mut self, number: u8, size: u8, value: u64) {
        let (number, shift) = if self.is_high_byte(number, size) {
            (number & 3, 8)
        } else {
            (number & 15, 0)
        };
        let Some(register) = self.regs.general.get_mut(usize::from(number)) else {
            return;
        };
        if size == 4 {
            *register = value & mask(4);
        } else {
            *register = *register & !(mask(size) << shift) | (value & mask(size)) << shift;
        }
    }

    /// AH, CH, DH or BH.
    fn is_high_byte(&self, number: u8, size: u8) -> bool {
        size == 1 && matches!(number, 4..=7) && !self.instruction.has(Prefixes::REX)
    }

    fn general(&self, number: u8) -> u64 {
        let register = self.regs.general.get(usize::from(number & 15));
        register.copied().unwrap_or(0)
    }

    /// An operand's offset in its segment.
    pub(super) fn offset(&self, memory: &Memory) -> u64 {
        self.offset_by(memory, 0)
    }

    /// The same, `distance` bytes further.
    pub(super) fn offset_by(&self, memory: &Memory, distance: u64) -> u64 {
        let register = |number: Option<u8>| number.map_or(0, |n| self.general(n));
        let mut offset = memory
            .displacement
            .wrapping_add(distance)
            .wrapping_add(register(memory.base))
            .wrapping_add(register(memory.index) << (memory.scale & 3));
        if memory.rip_relative {
            offset = offset.wrapping_add(self.next);
        }
        offset & mask(self.instruction.address_size)
    }

    /// The linear address of an operand in the instruction's own segment.
    #[inline(never)]
    pub(super) fn linear(&self, offset: u64, size: u8, write: bool) -> Result<u64, Stop> {
        self.translate(&self.operand, self.name, offset, size, write)
    }

    /// The same in ES.
    pub(super) fn linear_extra(&self, offset: u64, size: u8, write: bool) -> Result<u64, Stop> {
        self.translate(&self.extra, SegmentName::Es, offset, size, write)
    }

    /// Moves the stack pointer down and returns where the operand goes.
    pub(super) fn push(&mut self, size: u8) -> Result<u64, Stop> {
        let width = self.stack_size();
        let top = self.register(Regs::RSP as u8, width);
        let new = top.wrapping_sub(u64::from(size)) & mask(width);
        self.set_register(Regs::RSP as u8, width, new);
        self.translate(&self.stack, SegmentName::Ss, new, size, true)
    }

    /// Returns where the operand is and moves the stack pointer up, by `more` bytes more.
    pub(super) fn pop(&mut self, size: u8, more: u64) -> Result<u64, Stop> {
        let width = self.stack_size();
        let top = self.register(Regs::RSP as u8, width);
        let linear = self.translate(&self.stack, SegmentName::Ss, top, size, false)?;
        let new = top.wrapping_add(u64::from(size)).wrapping_add(more);
        self.set_register(Regs::RSP as u8, width, new);
        Ok(linear)
    }

    /// Makes the program go on at `to`, an offset of `size` bytes.
    pub(super) fn branch(&mut self, to: u64, size: u8) -> Result<(), Stop> {
        let to = to & mask(size);
        let outside = if self.long {
            !self.is_canonical(to)
        } else {
            to > u64::from(self.code_limit)
        };
        if outside {
            return Err(self.fault(Exception::GP));
        }
        self.next = to;
        Ok(())
    }

    /// Whether PUSHF may: in virtual-8086 mode it is for IOPL 3.
    pub(super) fn may_push_flags(&self) -> bool {
        let rflags = Rflags::from_bits_retain(self.regs.rflags);
        !rflags.contains(Rflags::VM) || rflags.contains(Rflags::IOPL)
    }

    fn stack_size(&self) -> u8 {
        if self.long {
            8
        } else if self.stack.attributes.contains(Attributes::BIG) {
            4
        } else {
            2
        }
    }

    /// Checks an operand of up to 16 bytes against its segment.
    fn translate(
        &self,
        segment: &Segment,
        name: SegmentName,
        offset: u64,
        size: u8,
        write: bool,
    ) -> Result<u64, Stop> {
        let vector = if name == SegmentName::Ss {
            Exception::SS
        } else {
            Exception::GP
        };
        let beyond = u64::from(size.saturating_sub(1));
        let linear = if self.long {
            let linear = segment.base.wrapping_add(offset);
            let last = linear.wrapping_add(beyond);
            if !self.is_canonical(linear) || !self.is_canonical(last) {
                return Err(self.fault(vector));
            }
            linear
        } else {
            self.check_kind(segment, vector, write)?;
            if !is_inside(segment, offset, offset.saturating_add(beyond)) {
                return Err(self.fault(vector));
            }
            segment.base.wrapping_add(offset) & mask(4)
        };
        // Larger operands have rules of their own.
        if self.checks_alignment && size <= 8 && linear & beyond != 0 {
            return Err(Stop::Exception(Exception::with_error(Exception::AC, 0)));
        }
        Ok(linear)
    }

    fn check_kind(&self, segment: &Segment, vector: u8, write: bool) -> Result<(), Stop> {
        if !self.protected {
            return Ok(());
        }
        let attributes = segment.attributes;
        if !attributes.contains(Attributes::PRESENT) {
            return Err(self.fault(vector));
        }
        let code = attributes.contains(Attributes::CODE);
        let more = attributes.contains(Attributes::WRITABLE_OR_READABLE);
        let allowed = match (code, write) {
            (true, true) => false,
            (true, false) => more,
            (false, true) => more,
            (false, false) => true,
        };
        if allowed {
            Ok(())
        } else {
            Err(self.fault(Exception::GP))
        }
    }

    fn is_canonical(&self, address: u64) -> bool {
        let shift = 64 - self.linear_bits;
        (address << shift) as i64 >> shift == address as i64
    }

    /// An exception whose error code is 0, and absent in real mode.
    pub(super) fn fault(&self, vector: u8) -> Stop {
        // Virtual-8086 mode's exceptions are taken by protected mode.
        let virtual_8086 = self.regs.rflags & Rflags::VM.bits() != 0;
        Stop::Exception(if self.protected || virtual_8086 {
            Exception::with_error(vector, 0)
        } else {
            Exception::plain(vector)
        })
    }
}

/// Whether the bytes from `first` to `last` are within the segment's limit.
fn is_inside(segment: &Segment, first: u64, last: u64) -> bool {
    let attributes = segment.attributes;
    let down = attributes.contains(Attributes::DOWN_OR_CONFORMING)
        && !attributes.contains(Attributes::CODE);
    let limit = u64::from(segment.limit);
    if down {
        let end = mask(if attributes.contains(Attributes::BIG) {
            4
        } else {
            2
        });
        first > limit && last <= end
    } else {
        last <= limit
    }
}

/// The bits of an operand of 1, 2, 4 or 8 bytes.
pub(super) fn mask(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (size * 8)) - 1
    }
}
