//! Who may use an I/O port.
//!
//! Source: Intel SDM volume 1, "I/O Permission Bit Map"; AMD APM volume 2, "I/O-Permission Bitmap".
use super::cpu::Cpu;
use super::machine::{Access, Machine, Stop};
use crate::arch::{Attributes, Exception, Rflags, SegmentName};

/// Where a 32- or 64-bit task-state segment says where its bitmap begins.
const BITMAP_FIELD: u64 = 0x66;

/// Checks that the program may use `size` ports from `port` on.
pub(super) fn check_port(
    cpu: &Cpu<'_>,
    machine: &mut impl Machine,
    port: u16,
    size: u8,
) -> Result<(), Stop> {
    let rflags = cpu.regs.rflags;
    let virtual_8086 = rflags & Rflags::VM.bits() != 0;
    let level = (rflags & Rflags::IOPL.bits()) >> 12;
    if !virtual_8086 && u64::from(cpu.cpl) <= level {
        return Ok(());
    }
    let task = machine.segment(SegmentName::Tr);
    let is_32 = matches!(task.attributes.kind(), 0x9 | 0xb);
    let limit = u64::from(task.limit);
    let fault = Err(cpu.fault(Exception::GP));
    if !task.attributes.contains(Attributes::PRESENT) || !is_32 || limit < BITMAP_FIELD + 1 {
        return fault;
    }
    let mut pair = [0; 2];
    machine.read(
        task.base.wrapping_add(BITMAP_FIELD),
        &mut pair,
        Access::System,
    )?;
    // The CPU always reads two bytes.
    let at = u64::from(u16::from_le_bytes(pair)) + u64::from(port / 8);
    if at + 1 > limit {
        return fault;
    }
    machine.read(task.base.wrapping_add(at), &mut pair, Access::System)?;
    let denied = u16::from_le_bytes(pair) >> (port % 8);
    let wanted = (1_u16 << size.min(4)) - 1;
    if denied & wanted == 0 { Ok(()) } else { fault }
}
