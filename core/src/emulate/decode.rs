//! From bytes to an [`Instruction`].
//!
//! Source: Intel SDM volume 2, "Instruction Format"; AMD APM volume 3, "Instruction Encoding".
use super::cpu::mask;
use super::instruction::{CodeSize, Instruction, Map, Memory, Prefixes};
use super::table::{Facts, Immediate, PRIMARY, SECONDARY, THIRD_3A, THIRD_38};
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
    if let Some(start) = decoder.padded.get_mut(..bytes.len()) {
        start.copy_from_slice(bytes);
    }
    let result = decoder.instruction();
    // What was made of zeros is nothing.
    match (decoder.at > bytes.len(), bytes.len() < MAX_LENGTH) {
        (false, _) => result.ok_or(DecodeError::Unknown),
        (true, true) => Err(DecodeError::More),
        (true, false) => Err(DecodeError::TooLong),
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
        let byte = self.peek();
        self.at += 1;
        byte
    }

    fn peek(&self) -> u8 {
        self.padded.get(self.at).copied().unwrap_or(0)
    }

    /// A number of up to eight bytes.
    fn number(&mut self, count: u8) -> u64 {
        if count == 0 {
            0
        } else {
            self.eight(count) & mask(count)
        }
    }

    /// The same, sign-extended.
    pub(super) fn signed(&mut self, count: u8) -> u64 {
        if count == 0 {
            return 0;
        }
        let number = self.eight(count);
        match count {
            1 => number as i8 as u64,
            2 => number as i16 as u64,
            4 => number as i32 as u64,
            _ => number,
        }
    }

    /// Eight bytes, of which `count` are used.
    fn eight(&mut self, count: u8) -> u64 {
        let rest = self.padded.get(self.at..).unwrap_or(&[]);
        self.at += usize::from(count);
        rest.first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    pub(super) fn long(&self) -> bool {
        self.size == CodeSize::Bits64
    }

    fn instruction(&mut self) -> Option<Instruction> {
        let mut prefixes = Prefixes::empty();
        let mut segment = None;
        let first = self.prefixes(&mut prefixes, &mut segment);
        let long = self.long();
        if self.rex != 0 {
            prefixes |= Prefixes::REX;
        }
        let operand = prefixes.contains(Prefixes::OPERAND);
        let address = prefixes.contains(Prefixes::ADDRESS);
        let (map, opcode, facts) = self.opcode(first, &mut prefixes)?;
        let immediate = facts.immediate()?;
        if facts.not_long() && long {
            return None;
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
            self.modrm(&mut instruction);
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
        self.immediates(&mut instruction, immediate, full);
        // At most 15.
        instruction.length = self.at as u8;
        Some(instruction)
    }

    /// Takes the prefixes in and returns the byte behind them.
    fn prefixes(&mut self, prefixes: &mut Prefixes, segment: &mut Option<SegmentName>) -> u8 {
        // Ends with the padding, which is no prefix.
        loop {
            let byte = self.byte();
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
                _ => return byte,
            }
            // A REX prefix counts only in front of the opcode.
            self.rex = 0;
        }
    }

    fn opcode(&mut self, first: u8, prefixes: &mut Prefixes) -> Option<(Map, u8, Facts)> {
        match first {
            0x0f => match self.byte() {
                0x38 => Some((Map::Third38, self.byte(), THIRD_38)),
                0x3a => Some((Map::Third3A, self.byte(), THIRD_3A)),
                // 3DNow!: the opcode is where an immediate would be.
                0x0f => Some((Map::Extended, 0x0f, THIRD_3A)),
                opcode => Some((Map::Secondary, opcode, secondary(opcode))),
            },
            0x62 | 0xc4 | 0xc5 if self.long() || self.peek() >= 0xc0 => {
                self.extended(first, prefixes)
            }
            // Smaller values are POP's ModRM.
            0x8f if self.peek() & 0x1f >= 8 => self.extended(first, prefixes),
            _ => Some((Map::Primary, first, primary(first))),
        }
    }

    /// Behind the first byte of VEX, EVEX or XOP.
    #[cold]
    fn extended(&mut self, first: u8, prefixes: &mut Prefixes) -> Option<(Map, u8, Facts)> {
        let illegal = Prefixes::LOCK | Prefixes::REP | Prefixes::REPNE | Prefixes::OPERAND;
        if prefixes.intersects(illegal | Prefixes::REX) {
            return None;
        }
        let second = self.byte();
        let map = match first {
            0xc5 => 1,
            0x62 => {
                self.number(2);
                second & 7
            }
            _ => {
                self.byte();
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
        let opcode = self.byte();
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
            _ => return None,
        };
        Some((Map::Extended, opcode, facts))
    }

    fn modrm(&mut self, instruction: &mut Instruction) {
        let modrm = self.byte();
        instruction.reg = modrm >> 3 & 7 | (self.rex & REX_R) << 1;
        instruction.rm = modrm & 7 | (self.rex & REX_B) << 3;
        let mode = modrm >> 6;
        // Moves to and from control and debug registers ignore the mode.
        let always_register =
            instruction.map == Map::Secondary && matches!(instruction.opcode, 0x20..=0x23);
        if mode == 3 || always_register {
            return;
        }
        let mut memory = if instruction.address_size == 2 {
            self.memory_16(mode, modrm & 7)
        } else {
            self.memory_32(mode, modrm & 7)
        };
        if let Some(segment) = instruction.segment {
            memory.segment = segment;
        }
        instruction.memory = Some(memory);
    }

    fn immediates(&mut self, instruction: &mut Instruction, immediate: Immediate, full: u8) {
        let group3 = matches!(instruction.extension(), 0 | 1);
        let extrq = instruction.map == Map::Secondary
            && instruction.opcode == 0x78
            && instruction
                .prefixes
                .intersects(Prefixes::OPERAND | Prefixes::REPNE);
        instruction.immediate = match immediate {
            // EXTRQ and INSERTQ have two bytes.
            Immediate::None if extrq => self.number(2),
            Immediate::None => 0,
            Immediate::Byte => self.signed(1),
            Immediate::Word => self.number(2),
            // XOP's has four bytes in any mode.
            Immediate::Operand if instruction.map == Map::Extended => self.signed(4),
            Immediate::Operand => self.signed(full.min(4)),
            Immediate::Full => self.number(full),
            Immediate::Jump if self.long() => self.signed(4),
            Immediate::Jump => self.signed(full),
            Immediate::Group3 if !group3 => 0,
            Immediate::Group3 => self.signed(instruction.operand_size.min(4)),
            Immediate::Offset => {
                instruction.memory = Some(Memory {
                    base: None,
                    index: None,
                    scale: 0,
                    displacement: self.number(instruction.address_size),
                    rip_relative: false,
                    segment: instruction.segment.unwrap_or(SegmentName::Ds),
                });
                0
            }
            Immediate::Far => {
                let offset = self.number(full.min(4));
                instruction.immediate2 = self.number(2) as u16;
                offset
            }
            Immediate::Enter => {
                let size = self.number(2);
                instruction.immediate2 = self.number(1) as u16;
                size
            }
        };
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
