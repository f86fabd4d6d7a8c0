//! Memory operands, from the bytes behind an opcode.
//!
//! Source: Intel SDM volume 2, "Addressing-Mode Encoding of ModR/M and SIB Bytes".
use super::decode::{Decoder, REX_B, REX_X};
use super::instruction::Memory;
use crate::arch::SegmentName;
use crate::regs::Regs;

/// The base registers of 16-bit addresses, four bits for each value of rm: BX, BX, BP, BP, SI, DI,
/// BP, BX.
const BASES_16: u32 = 0x3576_5533;

impl Decoder {
    /// With addresses of 16 bits, or of 32 and 64.
    pub(super) fn memory(&mut self, mode: u8, rm: u8, is_16: bool) -> Memory {
        let (mut base, mut index, mut scale) = (rm, None, 0);
        let mut without_base = 5;
        if is_16 {
            base = (BASES_16 >> (4 * rm) & 7) as u8;
            // SI or DI.
            index = (rm < 4).then_some(Regs::RSI as u8 | rm & 1);
            without_base = if rm == 6 { base } else { 8 };
        } else if rm == 4 {
            let sib = self.byte();
            base = sib & 7;
            scale = sib >> 6;
            let register = sib >> 3 & 7 | (self.rex & REX_X) << 2;
            // The stack pointer is no index; R12 is one.
            index = (register != 4).then_some(register);
        }
        let no_base = mode == 0 && base == without_base;
        let count = match mode {
            0 if !no_base => 0,
            1 => 1,
            _ if is_16 => 2,
            _ => 4,
        };
        let base = (!no_base).then_some(base | (self.rex & REX_B) << 3);
        let stack = matches!(base, Some(4 | 5));
        Memory {
            base,
            index,
            scale,
            displacement: self.signed(count),
            rip_relative: no_base && rm != 4 && self.long(),
            segment: if stack {
                SegmentName::Ss
            } else {
                SegmentName::Ds
            },
        }
    }
}
