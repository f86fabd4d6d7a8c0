//! Where an instruction's operands are.
use super::alu::sign_extend;
use super::cpu::{Cpu, Stopped, mask};
use super::instruction::{Map, Memory};
use super::machine::Machine;
use crate::arch::{Rflags, SegmentName};
use crate::regs::Regs;

/// How an instruction names an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Nothing,
    /// ModRM's rm field.
    Rm,
    /// The same of the extending moves, which is smaller than the target.
    Narrow,
    /// The same where a register has the number of a bit, which counts from the operand's address
    /// on, in both directions.
    Bit,
    /// ModRM's reg field, or the register in the opcode.
    Reg,
    Accumulator,
    Immediate,
    /// 1 or CL.
    Count,
    Port,
    /// The top of the stack, which it leaves, or gets to.
    Pop,
    Push,
    /// Of a string instruction: at RSI, and at RDI.
    Source,
    Destination,
    /// The opcode has one of its own.
    Special,
}

/// What kind of place an operand is in, and what its value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    None,
    /// The number of a general register.
    Register,
    /// The operand itself.
    Value,
    /// A linear address, checked against its segment.
    Memory,
    /// The number of a vector register.
    Vector,
    /// The number of a port.
    Port,
}

/// An operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) kind: Kind,
    /// Bytes, up to 16.
    pub(super) size: u8,
    pub(super) value: u64,
}

impl Place {
    pub(super) const NOTHING: Place = Place {
        kind: Kind::None,
        size: 0,
        value: 0,
    };
}

impl<M: Machine> Cpu<'_, M> {
    /// Finds an operand; moves the stack pointer.
    #[inline(never)]
    pub(super) fn operand(
        &mut self,
        form: Form,
        mut size: u8,
        write: bool,
    ) -> Result<Place, Stopped> {
        let instruction = self.instruction;
        let opcode = instruction.opcode;
        let mut width = instruction.address_size;
        let data = instruction.segment.unwrap_or(SegmentName::Ds);
        let register = |number: u8| (Kind::Register, u64::from(number));
        let found = match form {
            Form::Nothing => Ok((Kind::None, 0)),
            Form::Reg => Ok(register(instruction.reg)),
            Form::Accumulator => Ok(register(Regs::RAX as u8)),
            Form::Immediate => Ok((Kind::Value, instruction.immediate)),
            Form::Count if opcode & 2 == 0 => Ok((Kind::Value, 1)),
            Form::Count => Ok((Kind::Value, self.register(Regs::RCX as u8, 1))),
            Form::Port if opcode & 0xf8 == 0xe0 => Ok((Kind::Port, instruction.immediate & 0xff)),
            Form::Port => Ok((Kind::Port, self.register(Regs::RDX as u8, 2))),
            Form::Rm | Form::Narrow | Form::Bit => {
                if form == Form::Narrow {
                    size = match instruction.map {
                        Map::Primary => size.min(4),
                        _ => 1 << (opcode & 1),
                    };
                }
                match &instruction.memory {
                    None => Ok(register(instruction.rm)),
                    Some(memory) => {
                        let mut offset = self.offset(memory);
                        if form == Form::Bit {
                            let bit = self.register(instruction.reg, size);
                            // Whole operands: bytes, without the bits that count within one.
                            let bytes = (sign_extend(bit, size) as i64 >> 3).cast_unsigned();
                            let whole = bytes & !u64::from(size.wrapping_sub(1));
                            offset = offset.wrapping_add(whole);
                        }
                        Err((memory.segment, offset))
                    }
                }
            }
            Form::Pop | Form::Push => {
                width = self.stack_size();
                let top = self.register(Regs::RSP as u8, width);
                let (at, new) = if form == Form::Push {
                    let new = top.wrapping_sub(size.into());
                    (new, new)
                } else {
                    let new = top.wrapping_add(size.into());
                    // RET's number of bytes; others have none.
                    (top, new.wrapping_add(instruction.immediate))
                };
                self.set_register(Regs::RSP as u8, width, new);
                Err((SegmentName::Ss, at))
            }
            Form::Source => Err((data, self.general(Regs::RSI as u8))),
            Form::Destination => Err((SegmentName::Es, self.general(Regs::RDI as u8))),
            Form::Special => match opcode {
                // MOV from a segment register, of which there are six.
                0x8c => {
                    let name = SegmentName::ALL.get(usize::from(instruction.extension()));
                    let name = name.copied().unwrap_or(SegmentName::Es);
                    Ok((Kind::Value, self.segment(name).selector.into()))
                }
                // LEA.
                0x8d => {
                    let offset = instruction.memory.map_or(0, |memory| self.offset(&memory));
                    Ok((Kind::Value, offset & mask(width)))
                }
                // PUSHF.
                0x9c => {
                    let hidden = Rflags::RF.bits() | Rflags::VM.bits();
                    Ok((Kind::Value, self.regs.rflags & !hidden))
                }
                // XLAT.
                0xd7 => {
                    let index = self.register(Regs::RAX as u8, 1);
                    Err((data, self.general(Regs::RBX as u8).wrapping_add(index)))
                }
                // CALL.
                _ => Ok((Kind::Value, self.next.wrapping_add(instruction.immediate))),
            },
        };
        let (kind, value) = match found {
            Ok(found) => found,
            Err((name, offset)) => {
                let linear = self.linear(name, offset & mask(width), size, write)?;
                (Kind::Memory, linear)
            }
        };
        Ok(Place { kind, size, value })
    }

    /// A memory operand's offset in its segment, and bits beyond the address size.
    pub(super) fn offset(&self, memory: &Memory) -> u64 {
        let register = |number: Option<u8>| number.map_or(0, |n| self.general(n));
        let mut offset = memory
            .displacement
            .wrapping_add(register(memory.base))
            .wrapping_add(register(memory.index) << (memory.scale & 3));
        if memory.rip_relative {
            offset = offset.wrapping_add(self.next);
        }
        offset
    }

    /// Whether PUSHF may: in virtual-8086 mode it is for IOPL 3.
    pub(super) fn may_push_flags(&self) -> bool {
        let rflags = Rflags::from_bits_retain(self.regs.rflags);
        !rflags.contains(Rflags::VM) || rflags.contains(Rflags::IOPL)
    }
}
