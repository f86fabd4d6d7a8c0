//! Memory operands, from the bytes behind an opcode.
//!
//! Source: Intel SDM volume 2, "Addressing-Mode Encoding of ModR/M and SIB Bytes".
use super::decode::{Decoder, REX_B, REX_X};
use super::instruction::Memory;
use crate::arch::SegmentName;
use crate::regs::Regs;

impl Decoder {
    /// With 16-bit addresses.
    #[cold]
    pub(super) fn memory_16(&mut self, mode: u8, rm: u8) -> Memory {
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
        Memory {
            base,
            index,
            scale: 0,
            displacement: self.signed(count),
            rip_relative: false,
            segment: if stack {
                SegmentName::Ss
            } else {
                SegmentName::Ds
            },
        }
    }

    /// With 32- and 64-bit addresses.
    pub(super) fn memory_32(&mut self, mode: u8, rm: u8) -> Memory {
        let (mut base, mut index, mut scale) = (rm, None, 0);
        if rm == 4 {
            let sib = self.byte();
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
        Memory {
            base: (!no_base).then_some(base | (self.rex & REX_B) << 3),
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
