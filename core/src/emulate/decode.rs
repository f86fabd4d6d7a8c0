//! From bytes to an [`Instruction`].
//!
//! Source: Intel SDM volume 2, "Instruction Format"; AMD APM volume 3, "Instruction Encoding".
use super::instruction::{CodeSize, Instruction, Map, Memory, Prefixes};
use super::table::{Facts, Immediate, PRIMARY, SECONDARY, THIRD_3A, THIRD_38};
use crate::arch::SegmentName;
use crate::regs::Regs;

/// The most bytes that an instruction has.
pub const MAX_LENGTH: usize = 15;

/// Why bytes are not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// They end in the middle of the instruction.
    More,
    /// The instruction is longer than [`MAX_LENGTH`]: #GP.
    TooLong,
    /// No instruction, or one that is not known here.
    Unknown,
}

/// Decodes the instruction that `bytes` begin with. More bytes than it has do no harm, so the
/// caller may hand over what it has up to [`MAX_LENGTH`].
///
/// The length is right for whatever decodes. That an instruction decodes does not mean that it
/// exists: where one with the same length does not, the difference is not made here.
///
/// # Errors
///
/// As in [`DecodeError`].
pub fn decode(bytes: &[u8], size: CodeSize) -> Result<Instruction, DecodeError> {
    let mut decoder = Decoder {
        bytes,
        at: 0,
        size,
        rex: 0,
    };
    decoder.instruction()
}

const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    size: CodeSize,
    rex: u8,
}

impl Decoder<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.at >= MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::More)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        if self.at >= MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        self.bytes.get(self.at).copied().ok_or(DecodeError::More)
    }

    /// A number of `count` bytes, up to eight.
    fn number(&mut self, count: u8) -> Result<u64, DecodeError> {
        let mut value = 0;
        for index in 0..count.min(8) {
            value |= u64::from(self.byte()?) << (index * 8);
        }
        Ok(value)
    }

    /// The same, sign-extended.
    fn signed(&mut self, count: u8) -> Result<u64, DecodeError> {
        Ok(super::alu::sign_extend(self.number(count)?, count))
    }

    fn long(&self) -> bool {
        self.size == CodeSize::Bits64
    }

    fn instruction(&mut self) -> Result<Instruction, DecodeError> {
        let mut prefixes = Prefixes::empty();
        let mut segment = None;
        let first = self.prefixes(&mut prefixes, &mut segment)?;
        let long = self.long();
        if self.rex != 0 {
            prefixes |= Prefixes::REX;
        }
        let operand = prefixes.contains(Prefixes::OPERAND);
        let address = prefixes.contains(Prefixes::ADDRESS);
        let (map, opcode, facts) = self.opcode(first, &mut prefixes)?;
        let immediate = facts.immediate().ok_or(DecodeError::Unknown)?;
        if facts.not_long() && long {
            return Err(DecodeError::Unknown);
        }
        let address_size = match (self.size, address) {
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => 2,
            (CodeSize::Bits64, false) => 8,
            _ => 4,
        };
        let mut instruction = Instruction {
            length: 0,
            map,
            opcode,
            prefixes,
            operand_size: 0,
            address_size,
            segment,
            reg: opcode & 7 | (self.rex & REX_B) << 3,
            rm: 0,
            memory: None,
            immediate: 0,
            immediate2: 0,
        };
        if facts.modrm() {
            self.modrm(&mut instruction)?;
        }
        let wide = long && (facts.wide() || is_wide(&instruction));
        let full = match (self.size, operand) {
            (CodeSize::Bits64, _) if self.rex & REX_W != 0 => 8,
            (CodeSize::Bits64, false) if wide => 8,
            (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => 2,
            _ => 4,
        };
        instruction.operand_size = match (map, opcode) {
            // Moves to and from control and debug registers have one size.
            (Map::Secondary, 0x20..=0x23) => 4 + 4 * u8::from(long),
            _ if facts.byte() => 1,
            _ => full,
        };
        self.immediates(&mut instruction, immediate, full)?;
        // At most 15.
        instruction.length = self.at as u8;
        Ok(instruction)
    }

    /// Takes the prefixes in and returns the byte behind them.
    fn prefixes(
        &mut self,
        prefixes: &mut Prefixes,
        segment: &mut Option<SegmentName>,
    ) -> Result<u8, DecodeError> {
        loop {
            let byte = self.byte()?;
            let long = self.long();
            match byte {
                // Without effect in 64-bit mode.
                0x26 | 0x2e | 0x36 | 0x3e if long => {}
                0x26 => *segment = Some(SegmentName::Es),
                0x2e => *segment = Some(SegmentName::Cs),
                0x36 => *segment = Some(SegmentName::Ss),
                0x3e => *segment = Some(SegmentName::Ds),
                0x64 => *segment = Some(SegmentName::Fs),
                0x65 => *segment = Some(SegmentName::Gs),
                0x66 => *prefixes |= Prefixes::OPERAND,
                0x67 => *prefixes |= Prefixes::ADDRESS,
                0xf0 => *prefixes |= Prefixes::LOCK,
                0xf2 => {
                    prefixes.remove(Prefixes::REP);
                    *prefixes |= Prefixes::REPNE;
                }
                0xf3 => {
                    prefixes.remove(Prefixes::REPNE);
                    *prefixes |= Prefixes::REP;
                }
                0x40..=0x4f if long => {
                    self.rex = byte;
                    continue;
                }
                _ => return Ok(byte),
            }
            // A REX prefix counts only in front of the opcode.
            self.rex = 0;
        }
    }

    fn opcode(
        &mut self,
        first: u8,
        prefixes: &mut Prefixes,
    ) -> Result<(Map, u8, Facts), DecodeError> {
        match first {
            0x0f => match self.byte()? {
                0x38 => Ok((Map::Third38, self.byte()?, THIRD_38)),
                0x3a => Ok((Map::Third3A, self.byte()?, THIRD_3A)),
                // 3DNow!: the opcode is where an immediate would be.
                0x0f => Ok((Map::Extended, 0x0f, THIRD_3A)),
                opcode => Ok((Map::Secondary, opcode, secondary(opcode))),
            },
            0x62 | 0xc4 | 0xc5 if self.long() || self.peek()? >= 0xc0 => {
                self.extended(first, prefixes)
            }
            // Smaller values are POP's ModRM.
            0x8f if self.peek()? & 0x1f >= 8 => self.extended(first, prefixes),
            _ => Ok((Map::Primary, first, primary(first))),
        }
    }

    /// Behind the first byte of VEX, EVEX or XOP.
    fn extended(
        &mut self,
        first: u8,
        prefixes: &mut Prefixes,
    ) -> Result<(Map, u8, Facts), DecodeError> {
        let illegal = Prefixes::LOCK | Prefixes::REP | Prefixes::REPNE | Prefixes::OPERAND;
        if prefixes.intersects(illegal | Prefixes::REX) {
            return Err(DecodeError::Unknown);
        }
        let second = self.byte()?;
        let map = match first {
            0xc5 => 1,
            0x62 => {
                self.number(2)?;
                second & 7
            }
            _ => {
                self.byte()?;
                second & 0x1f
            }
        };
        if self.long() {
            let inverted = !second >> 5;
            self.rex = if first == 0xc5 {
                inverted & REX_R
            } else {
                inverted & 7
            };
        }
        let opcode = self.byte()?;
        let facts = match (first, map) {
            (0x8f, 8) => THIRD_3A,
            (0x8f, 9) => THIRD_38,
            (0x8f, 10) => super::table::XOP_A,
            (0xc4 | 0xc5 | 0x62, 1) if opcode == 0x77 && first != 0x62 => secondary(opcode),
            (0xc4 | 0xc5 | 0x62, 1) => match secondary(opcode).immediate() {
                Some(Immediate::Byte) => THIRD_3A,
                _ => THIRD_38,
            },
            (0xc4 | 0x62, 2) | (0x62, 5 | 6) => THIRD_38,
            (0xc4 | 0x62, 3) => THIRD_3A,
            _ => return Err(DecodeError::Unknown),
        };
        Ok((Map::Extended, opcode, facts))
    }

    fn modrm(&mut self, instruction: &mut Instruction) -> Result<(), DecodeError> {
        let modrm = self.byte()?;
        instruction.reg = modrm >> 3 & 7 | (self.rex & REX_R) << 1;
        instruction.rm = modrm & 7 | (self.rex & REX_B) << 3;
        let mode = modrm >> 6;
        // Moves to and from control and debug registers ignore the mode.
        let always_register =
            instruction.map == Map::Secondary && matches!(instruction.opcode, 0x20..=0x23);
        if mode == 3 || always_register {
            return Ok(());
        }
        let mut memory = if instruction.address_size == 2 {
            self.memory_16(mode, modrm & 7)?
        } else {
            self.memory_32(mode, modrm & 7)?
        };
        if let Some(segment) = instruction.segment {
            memory.segment = segment;
        }
        instruction.memory = Some(memory);
        Ok(())
    }

    fn memory_16(&mut self, mode: u8, rm: u8) -> Result<Memory, DecodeError> {
        const BX: Option<u8> = Some(Regs::RBX as u8);
        const BP: Option<u8> = Some(Regs::RBP as u8);
        const SI: Option<u8> = Some(Regs::RSI as u8);
        const DI: Option<u8> = Some(Regs::RDI as u8);
        let (base, index) = match rm {
            0 => (BX, SI),
            1 => (BX, DI),
            2 => (BP, SI),
            3 => (BP, DI),
            4 => (SI, None),
            5 => (DI, None),
            6 if mode == 0 => (None, None),
            6 => (BP, None),
            _ => (BX, None),
        };
        let count = match mode {
            0 if base.is_none() => 2,
            0 => 0,
            1 => 1,
            _ => 2,
        };
        let stack = base == BP;
        Ok(Memory {
            base,
            index,
            scale: 0,
            displacement: self.signed(count)?,
            rip_relative: false,
            segment: if stack {
                SegmentName::Ss
            } else {
                SegmentName::Ds
            },
        })
    }

    fn memory_32(&mut self, mode: u8, rm: u8) -> Result<Memory, DecodeError> {
        let (mut base, mut index, mut scale) = (rm, None, 0);
        if rm == 4 {
            let sib = self.byte()?;
            base = sib & 7;
            scale = sib >> 6;
            let register = sib >> 3 & 7 | (self.rex & REX_X) << 2;
            // The stack pointer is no index; R12 is one.
            index = (register != 4).then_some(register);
        }
        let no_base = mode == 0 && base == 5;
        let count = match mode {
            0 if no_base => 4,
            0 => 0,
            1 => 1,
            _ => 4,
        };
        let stack = !no_base && self.rex & REX_B == 0 && matches!(base, 4 | 5);
        Ok(Memory {
            base: (!no_base).then_some(base | (self.rex & REX_B) << 3),
            index,
            scale,
            displacement: self.signed(count)?,
            rip_relative: no_base && rm != 4 && self.long(),
            segment: if stack {
                SegmentName::Ss
            } else {
                SegmentName::Ds
            },
        })
    }

    fn immediates(
        &mut self,
        instruction: &mut Instruction,
        immediate: Immediate,
        full: u8,
    ) -> Result<(), DecodeError> {
        let group3 = matches!(instruction.extension(), 0 | 1);
        let extrq = instruction.map == Map::Secondary
            && instruction.opcode == 0x78
            && instruction
                .prefixes
                .intersects(Prefixes::OPERAND | Prefixes::REPNE);
        instruction.immediate = match immediate {
            // EXTRQ and INSERTQ have two bytes.
            Immediate::None if extrq => self.number(2)?,
            Immediate::None => 0,
            Immediate::Byte => self.signed(1)?,
            Immediate::Word => self.number(2)?,
            Immediate::Operand => self.signed(full.min(4))?,
            Immediate::Full => self.number(full)?,
            Immediate::Jump if self.long() => self.signed(4)?,
            Immediate::Jump => self.signed(full)?,
            Immediate::Group3 if !group3 => 0,
            Immediate::Group3 => self.signed(instruction.operand_size.min(4))?,
            Immediate::Offset => {
                instruction.memory = Some(Memory {
                    base: None,
                    index: None,
                    scale: 0,
                    displacement: self.number(instruction.address_size)?,
                    rip_relative: false,
                    segment: instruction.segment.unwrap_or(SegmentName::Ds),
                });
                0
            }
            Immediate::Far => {
                let offset = self.number(full.min(4))?;
                instruction.immediate2 = self.number(2)? as u16;
                offset
            }
            Immediate::Enter => {
                let size = self.number(2)?;
                instruction.immediate2 = self.number(1)? as u16;
                size
            }
        };
        Ok(())
    }
}

/// The facts of an opcode of one byte.
fn primary(opcode: u8) -> Facts {
    PRIMARY
        .get(usize::from(opcode))
        .copied()
        .unwrap_or(THIRD_38)
}

/// The facts of an opcode after 0F.
fn secondary(opcode: u8) -> Facts {
    SECONDARY
        .get(usize::from(opcode))
        .copied()
        .unwrap_or(THIRD_38)
}

/// The members of group 5 that use the stack or jump are eight bytes wide in 64-bit mode.
fn is_wide(instruction: &Instruction) -> bool {
    instruction.map == Map::Primary
        && instruction.opcode == 0xff
        && matches!(instruction.extension(), 2 | 4 | 6)
}
