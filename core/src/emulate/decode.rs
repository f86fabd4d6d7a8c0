//! From bytes to an [`Instruction`].
//!
//! Source: Intel SDM volume 2, "Instruction Format"; AMD APM volume 3, "Instruction Encoding".
use super::alu::sign_extend;
use super::cpu::mask;
use super::instruction::{CodeSize, Instruction, Map, Memory, Prefixes};
use super::table::{Facts, Immediate, PRIMARY, SECONDARY, THIRD_3A, THIRD_38, XOP_A};
use crate::arch::SegmentName;

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
// Once in the module, not once per vendor.
#[inline(never)]
pub fn decode(bytes: &[u8], size: CodeSize) -> Result<Instruction, DecodeError> {
    let bytes = bytes.get(..MAX_LENGTH).unwrap_or(bytes);
    let mut decoder = Decoder {
        padded: [0; PADDED],
        at: 0,
        size,
        rex: 0,
    };
    for (to, &from) in decoder.padded.iter_mut().zip(bytes) {
        *to = from;
    }
    let mut instruction = Instruction::default();
    let known = decoder.instruction(&mut instruction);
    // What was made of zeros is nothing.
    if decoder.at > bytes.len() {
        Err(if bytes.len() < MAX_LENGTH {
            DecodeError::More
        } else {
            DecodeError::TooLong
        })
    } else if known.is_none() {
        Err(DecodeError::Unknown)
    } else {
        Ok(instruction)
    }
}

const REX_W: u8 = 8;
const REX_R: u8 = 4;
pub(super) const REX_X: u8 = 2;
pub(super) const REX_B: u8 = 1;

/// As far as an instruction can reach whose prefixes fill [`MAX_LENGTH`].
const PADDED: usize = 40;

/// Reads on into zeros where the bytes end: that they have ended is seen once, at the end.
pub(super) struct Decoder {
    padded: [u8; PADDED],
    at: usize,
    size: CodeSize,
    pub(super) rex: u8,
}

impl Decoder {
    pub(super) fn byte(&mut self) -> u8 {
        self.signed(1) as u8
    }

    fn peek(&self) -> u8 {
        self.padded.get(self.at).copied().unwrap_or(0)
    }

    /// A number of up to eight bytes, sign-extended.
    #[inline(never)]
    pub(super) fn signed(&mut self, count: u8) -> u64 {
        let rest = self.padded.get(self.at..).unwrap_or_default();
        let eight = rest
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.at += usize::from(count);
        if count == 0 {
            0
        } else {
            sign_extend(eight, count)
        }
    }

    pub(super) fn long(&self) -> bool {
        self.size == CodeSize::Bits64
    }

    /// Fills the instruction in; [`None`] where there is none.
    fn instruction(&mut self, instruction: &mut Instruction) -> Option<()> {
        let first = self.prefixes(instruction);
        let long = self.long();
        if self.rex != 0 {
            instruction.prefixes |= Prefixes::REX;
        }
        let facts = self.opcode(first, instruction)?;
        let immediate = facts.immediate()?;
        if facts.not_long() && long {
            return None;
        }
        instruction.address_size = match (self.size, instruction.has(Prefixes::ADDRESS)) {
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => 2,
            (CodeSize::Bits64, false) => 8,
            _ => 4,
        };
        instruction.reg = instruction.opcode & 7 | (self.rex & REX_B) << 3;
        if facts.modrm() {
            self.modrm(instruction);
        }
        let operand = instruction.has(Prefixes::OPERAND);
        let wide = facts.wide() || is_wide(instruction);
        let full = if long && (self.rex & REX_W != 0 || wide && !operand) {
            8
        } else if operand != (self.size == CodeSize::Bits16) {
            2
        } else {
            4
        };
        instruction.operand_size = if moves_control(instruction) {
            // Moves to and from control and debug registers have one size.
            4 + 4 * u8::from(long)
        } else if facts.byte() {
            1
        } else {
            full
        };
        self.immediates(instruction, immediate, full);
        // At most 15.
        instruction.length = self.at as u8;
        Some(())
    }

    /// Takes the prefixes in and returns the byte behind them.
    fn prefixes(&mut self, instruction: &mut Instruction) -> u8 {
        let long = self.long();
        let prefixes = &mut instruction.prefixes;
        // Ends with the padding, which is no prefix.
        loop {
            let byte = self.byte();
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {
                    let number = match byte {
                        0x64 | 0x65 => byte & 7,
                        _ => byte >> 3 & 3,
                    };
                    // Only these two have an effect in 64-bit mode.
                    if number >= 4 || !long {
                        instruction.segment = SegmentName::ALL.get(usize::from(number)).copied();
                    }
                }
                0x66 => *prefixes |= Prefixes::OPERAND,
                0x67 => *prefixes |= Prefixes::ADDRESS,
                0xf0 => *prefixes |= Prefixes::LOCK,
                0xf2 | 0xf3 => {
                    prefixes.remove(Prefixes::REP | Prefixes::REPNE);
                    *prefixes |= if byte == 0xf2 {
                        Prefixes::REPNE
                    } else {
                        Prefixes::REP
                    };
                }
                0x40..=0x4f if long => {
                    self.rex = byte;
                    continue;
                }
                _ => return byte,
            }
            // A REX prefix counts only in front of the opcode.
            self.rex = 0;
        }
    }

    fn opcode(&mut self, first: u8, instruction: &mut Instruction) -> Option<Facts> {
        let (map, opcode, facts) = match first {
            0x0f => match self.byte() {
                0x38 => (Map::Third38, self.byte(), THIRD_38),
                0x3a => (Map::Third3A, self.byte(), THIRD_3A),
                // 3DNow!: the opcode is where an immediate would be.
                0x0f => (Map::Extended, 0x0f, THIRD_3A),
                opcode => (Map::Secondary, opcode, facts(&SECONDARY, opcode)),
            },
            0x62 | 0xc4 | 0xc5 if self.long() || self.peek() >= 0xc0 => {
                return self.extended(first, instruction);
            }
            // Smaller values are POP's ModRM.
            0x8f if self.peek() & 0x1f >= 8 => return self.extended(first, instruction),
            _ => (Map::Primary, first, facts(&PRIMARY, first)),
        };
        instruction.map = map;
        instruction.opcode = opcode;
        Some(facts)
    }

    /// Behind the first byte of VEX, EVEX or XOP.
    #[cold]
    fn extended(&mut self, first: u8, instruction: &mut Instruction) -> Option<Facts> {
        let illegal = Prefixes::LOCK | Prefixes::REP | Prefixes::REPNE | Prefixes::OPERAND;
        if instruction.prefixes.intersects(illegal | Prefixes::REX) {
            return None;
        }
        let second = self.byte();
        let (map, more, mut rex) = match first {
            0xc5 => (1, 0, REX_R),
            0x62 => (second & 7, 2, 7),
            _ => (second & 0x1f, 1, 7),
        };
        self.signed(more);
        if !self.long() {
            rex = 0;
        }
        self.rex = !second >> 5 & rex;
        instruction.map = Map::Extended;
        instruction.opcode = self.byte();
        let in_secondary = facts(&SECONDARY, instruction.opcode);
        match (first, map) {
            (0x8f, 8) => Some(THIRD_3A),
            (0x8f, 9) => Some(THIRD_38),
            (0x8f, 10) => Some(XOP_A),
            (0x8f, _) => None,
            (_, 1) if instruction.opcode == 0x77 && first != 0x62 => Some(in_secondary),
            (_, 1) => match in_secondary.immediate() {
                Some(Immediate::Byte) => Some(THIRD_3A),
                _ => Some(THIRD_38),
            },
            (_, 2) | (0x62, 5 | 6) => Some(THIRD_38),
            (_, 3) => Some(THIRD_3A),
            _ => None,
        }
    }

    fn modrm(&mut self, instruction: &mut Instruction) {
        let modrm = self.byte();
        instruction.reg = modrm >> 3 & 7 | (self.rex & REX_R) << 1;
        instruction.rm = modrm & 7 | (self.rex & REX_B) << 3;
        let mode = modrm >> 6;
        // Moves to and from control and debug registers ignore the mode.
        if mode == 3 || moves_control(instruction) {
            return;
        }
        let mut memory = self.memory(mode, modrm & 7, instruction.address_size == 2);
        if let Some(segment) = instruction.segment {
            memory.segment = segment;
        }
        instruction.memory = Some(memory);
    }

    fn immediates(&mut self, instruction: &mut Instruction, immediate: Immediate, full: u8) {
        let two_bytes = Prefixes::OPERAND | Prefixes::REPNE;
        let (count, extends) = match immediate {
            // EXTRQ and INSERTQ have two bytes.
            Immediate::None
                if instruction.map == Map::Secondary
                    && instruction.opcode == 0x78
                    && instruction.prefixes.intersects(two_bytes) =>
            {
                (2, false)
            }
            Immediate::None => (0, false),
            Immediate::Byte => (1, true),
            Immediate::Word | Immediate::Enter => (2, false),
            // XOP's has four bytes in any mode.
            Immediate::Operand if instruction.map == Map::Extended => (4, true),
            Immediate::Operand => (full.min(4), true),
            Immediate::Full => (full, false),
            Immediate::Jump if self.long() => (4, true),
            Immediate::Jump => (full, true),
            Immediate::Group3 if instruction.extension() > 1 => (0, true),
            Immediate::Group3 => (instruction.operand_size.min(4), true),
            Immediate::Offset => (instruction.address_size, false),
            Immediate::Far => (full.min(4), false),
        };
        let signed = self.signed(count);
        let number = if extends {
            signed
        } else {
            signed & mask(count)
        };
        if immediate == Immediate::Offset {
            instruction.memory = Some(Memory {
                base: None,
                index: None,
                scale: 0,
                displacement: number,
                rip_relative: false,
                segment: instruction.segment.unwrap_or(SegmentName::Ds),
            });
            return;
        }
        instruction.immediate = number;
        instruction.immediate2 = match immediate {
            Immediate::Far => self.signed(2) as u16,
            Immediate::Enter => self.byte().into(),
            _ => 0,
        };
    }
}

/// The facts of an opcode.
fn facts(table: &[Facts; 256], opcode: u8) -> Facts {
    table.get(usize::from(opcode)).copied().unwrap_or(THIRD_38)
}

/// The members of group 5 that use the stack or jump are eight bytes wide in 64-bit mode.
fn is_wide(instruction: &Instruction) -> bool {
    instruction.map == Map::Primary
        && instruction.opcode == 0xff
        && matches!(instruction.extension(), 2 | 4 | 6)
}

/// Moves to and from control and debug registers.
fn moves_control(instruction: &Instruction) -> bool {
    instruction.map == Map::Secondary && matches!(instruction.opcode, 0x20..=0x23)
}
