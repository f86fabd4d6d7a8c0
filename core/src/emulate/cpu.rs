//! Registers and addresses of one instruction.
//!
//! Source: Intel SDM volume 3, "Protection" and "Alignment Check Exception"; AMD APM volume 2,
//! "Segmented Virtual Memory".
use super::instruction::{CodeSize, Instruction, Prefixes};
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

/// The instruction did not happen; [`Cpu::why`] says why.
pub(super) struct Stopped;

/// An instruction and the state it works on. What it does is done to a copy of the registers.
pub(super) struct Cpu<'a, M> {
    pub(super) instruction: &'a Instruction,
    pub(super) machine: &'a mut M,
    pub(super) regs: Regs,
    /// Where RIP goes.
    pub(super) next: u64,
    /// Why the instruction stops, where it does.
    pub(super) why: Stop,
    /// The target stays as it is.
    pub(super) keep_target: bool,
    /// 64-bit mode.
    pub(super) long: bool,
}

impl<'a, M: Machine> Cpu<'a, M> {
    /// At the machine's RIP.
    #[inline(never)]
    pub(super) fn new(instruction: &'a Instruction, machine: &'a mut M) -> Self {
        let cs = machine.segment(SegmentName::Cs);
        let long = code_size(machine.efer(), &cs) == CodeSize::Bits64;
        let regs = *machine.regs();
        let next = regs.rip.wrapping_add(u64::from(instruction.length));
        Self {
            instruction,
            machine,
            regs,
            next: if long { next } else { next & mask(4) },
            why: Stop::Unsupported,
            keep_target: false,
            long,
        }
    }

    /// A general register's low bytes.
    #[inline(never)]
    pub(super) fn register(&self, number: u8, size: u8) -> u64 {
        let (number, shift) = self.place(number, size);
        self.general(number) >> shift & mask(size)
    }

    /// Sets a general register's low bytes. Four of them clear the upper half.
    #[inline(never)]
    pub(super) fn set_register(&mut self, number: u8, size: u8, value: u64) {
        let (number, shift) = self.place(number, size);
        let kept = if size == 4 {
            u64::MAX
        } else {
            mask(size) << shift
        };
        let value = (value & mask(size)) << shift;
        self.regs.set(number, self.general(number) & !kept | value);
    }

    /// A register's number and its lowest bit: AH, CH, DH and BH are in the first four.
    fn place(&self, number: u8, size: u8) -> (u8, u32) {
        if size == 1 && matches!(number, 4..=7) && !self.instruction.has(Prefixes::REX) {
            (number & 3, 8)
        } else {
            (number, 0)
        }
    }

    /// All of a general register.
    pub(super) fn general(&self, number: u8) -> u64 {
        self.regs.get(number)
    }

    /// Makes the program go on at `to`, an offset of `size` bytes.
    pub(super) fn branch(&mut self, to: u64, size: u8) -> Result<(), Stopped> {
        let to = to & mask(size);
        let outside = if self.long {
            !self.is_canonical(to)
        } else {
            to > u64::from(self.segment(SegmentName::Cs).limit)
        };
        if outside {
            return Err(self.fault(Exception::GP));
        }
        self.next = to;
        Ok(())
    }

    pub(super) fn stack_size(&mut self) -> u8 {
        if self.long {
            return 8;
        }
        let stack = self.segment(SegmentName::Ss).attributes;
        if stack.contains(Attributes::BIG) {
            4
        } else {
            2
        }
    }

    #[inline(never)]
    pub(super) fn segment(&mut self, name: SegmentName) -> Segment {
        self.machine.segment(name)
    }

    /// The linear address of an operand of up to 16 bytes, checked against its segment.
    #[inline(never)]
    pub(super) fn linear(
        &mut self,
        name: SegmentName,
        offset: u64,
        size: u8,
        write: bool,
    ) -> Result<u64, Stopped> {
        let has_base = !self.long || matches!(name, SegmentName::Fs | SegmentName::Gs);
        let segment = if has_base {
            self.segment(name)
        } else {
            Segment::default()
        };
        let vector = if name == SegmentName::Ss {
            Exception::SS
        } else {
            Exception::GP
        };
        let beyond = u64::from(size.saturating_sub(1));
        let mut linear = segment.base.wrapping_add(offset);
        if self.long {
            let last = linear.wrapping_add(beyond);
            if !self.is_canonical(linear) || !self.is_canonical(last) {
                return Err(self.fault(vector));
            }
        } else {
            linear &= mask(4);
            if self.is_protected() {
                if !segment.attributes.contains(Attributes::PRESENT) {
                    return Err(self.fault(vector));
                }
                if !allows(segment.attributes, write) {
                    return Err(self.fault(Exception::GP));
                }
            }
            if !is_inside(&segment, offset, offset.saturating_add(beyond)) {
                return Err(self.fault(vector));
            }
        }
        // Larger operands have rules of their own.
        if size <= 8 && linear & beyond != 0 && self.checks_alignment() {
            return Err(self.raise(Exception::with_error(Exception::AC, 0)));
        }
        Ok(linear)
    }

    /// Segments have types.
    fn is_protected(&mut self) -> bool {
        self.machine.cr0().contains(Cr0::PE) && self.regs.rflags & Rflags::VM.bits() == 0
    }

    fn checks_alignment(&mut self) -> bool {
        self.regs.rflags & Rflags::AC.bits() != 0
            && self.machine.cr0().contains(Cr0::AM)
            && self.machine.cpl() == 3
    }

    #[inline(never)]
    fn is_canonical(&mut self, address: u64) -> bool {
        // Bits of a linear address.
        let la57 = self.machine.cr4().contains(Cr4::LA57);
        let shift = if la57 { 64 - 57 } else { 64 - 48 };
        (address << shift) as i64 >> shift == address as i64
    }

    /// Stops with an exception whose error code is 0, and absent in real mode.
    #[inline(never)]
    pub(super) fn fault(&mut self, vector: u8) -> Stopped {
        // Virtual-8086 mode's exceptions are taken by protected mode.
        let protected = self.machine.cr0().contains(Cr0::PE);
        self.raise(if protected {
            Exception::with_error(vector, 0)
        } else {
            Exception::plain(vector)
        })
    }

    /// Stops with an exception.
    #[inline(never)]
    pub(super) fn raise(&mut self, exception: Exception) -> Stopped {
        self.why = Stop::Exception(exception);
        Stopped
    }

    /// Notes why the machine stops the instruction.
    pub(super) fn note<T>(&mut self, result: Result<T, Stop>) -> Result<T, Stopped> {
        result.map_err(|why| {
            self.why = why;
            Stopped
        })
    }
}

/// Whether a segment that is present is for this.
fn allows(attributes: Attributes, write: bool) -> bool {
    let code = attributes.contains(Attributes::CODE);
    if attributes.contains(Attributes::WRITABLE_OR_READABLE) {
        !(code && write)
    } else {
        !(code || write)
    }
}

/// Whether the bytes from `first` to `last` are within the segment's limit.
fn is_inside(segment: &Segment, first: u64, last: u64) -> bool {
    let attributes = segment.attributes;
    let down = attributes.contains(Attributes::DOWN_OR_CONFORMING)
        && !attributes.contains(Attributes::CODE);
    let limit = u64::from(segment.limit);
    if !down {
        return last <= limit;
    }
    let end = if attributes.contains(Attributes::BIG) {
        mask(4)
    } else {
        mask(2)
    };
    first > limit && last <= end
}

/// The bits of an operand of 1, 2, 4 or 8 bytes; none for 0.
#[inline(never)]
pub(super) fn mask(size: u8) -> u64 {
    match 1_u64.checked_shl(u32::from(size) * 8) {
        Some(end) => end - 1,
        None => u64::MAX,
    }
}
