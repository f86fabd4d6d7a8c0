//! Who may use an I/O port.
//!
//! Source: Intel SDM volume 1, "I/O Permission Bit Map"; AMD APM volume 2, "I/O-Permission Bitmap".
use super::cpu::{Cpu, Stopped};
use super::machine::{Access, Machine};
use crate::arch::{Attributes, Exception, Rflags, SegmentName};

/// Where a 32- or 64-bit task-state segment says where its bitmap begins.
const BITMAP_FIELD: u64 = 0x66;

impl<M: Machine> Cpu<'_, M> {
    /// Checks that the program may use `size` ports from `port` on.
    #[inline(never)]
    pub(super) fn check_port(&mut self, port: u64, size: u8) -> Result<(), Stopped> {
        let rflags = self.regs.rflags;
        let virtual_8086 = rflags & Rflags::VM.bits() != 0;
        let level = (rflags & Rflags::IOPL.bits()) >> 12;
        if !virtual_8086 && u64::from(self.machine.cpl()) <= level {
            return Ok(());
        }
        let task = self.segment(SegmentName::Tr);
        let is_32 = matches!(task.attributes.kind(), 0x9 | 0xb);
        if !task.attributes.contains(Attributes::PRESENT) || !is_32 {
            return Err(self.fault(Exception::GP));
        }
        let mut at = BITMAP_FIELD;
        let mut word = 0;
        // Where the bitmap is, and then the part of it.
        for further in [port / 8, 0] {
            // The CPU always reads two bytes.
            if at + 1 > u64::from(task.limit) {
                return Err(self.fault(Exception::GP));
            }
            let mut pair = [0; 2];
            let linear = task.base.wrapping_add(at);
            self.read(linear, &mut pair, Access::System)?;
            word = u16::from_le_bytes(pair);
            at = u64::from(word) + further;
        }
        let wanted = (1_u16 << size.min(4)) - 1;
        if word >> (port & 7) & wanted == 0 {
            Ok(())
        } else {
            Err(self.fault(Exception::GP))
        }
    }
}
