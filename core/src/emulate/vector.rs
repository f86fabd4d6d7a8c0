//! Plain loads and stores of vector registers.
use super::cpu::{Cpu, Stopped};
use super::instruction::Prefixes;
use super::machine::Machine;
use super::op;
use super::operand::{Form, Kind, Place};
use super::operation::Plan;
use crate::arch::Exception;

impl<M: Machine> Cpu<'_, M> {
    /// The plan of an instruction in the map of two-byte opcodes that is none of the others.
    pub(super) fn vector(&mut self) -> Result<Plan, Stopped> {
        let instruction = self.instruction;
        if !M::HAS_VECTORS || instruction.memory.is_none() {
            return Err(Stopped);
        }
        let prefix = match instruction.prefixes {
            p if p.contains(Prefixes::REP) => 0xf3,
            p if p.contains(Prefixes::REPNE) => 0xf2,
            p if p.contains(Prefixes::OPERAND) => 0x66,
            _ => 0,
        };
        let wide = if instruction.operand_size == 8 { 8 } else { 4 };
        // Bytes, whether it stores, whether it is aligned, and which half.
        let (size, store, aligned, op) = match (prefix, instruction.opcode) {
            (0 | 0x66, 0x10) | (0xf3, 0x6f) => (16, false, false, op::MOVE),
            (0 | 0x66, 0x11) | (0xf3, 0x7f) => (16, true, false, op::MOVE),
            (0xf3, 0x10) => (4, false, false, op::MOVE),
            (0xf3, 0x11) => (4, true, false, op::MOVE),
            (0xf2, 0x10) => (8, false, false, op::MOVE),
            (0xf2, 0x11) => (8, true, false, op::MOVE),
            (0 | 0x66, 0x12) => (8, false, false, op::LOW_HALF),
            (0 | 0x66, 0x13) => (8, true, false, op::MOVE),
            (0 | 0x66, 0x16) => (8, false, false, op::HIGH_HALF),
            (0 | 0x66, 0x17) => (8, true, false, op::FROM_HIGH_HALF),
            (0 | 0x66, 0x28) | (0x66, 0x6f) => (16, false, true, op::MOVE),
            (0 | 0x66, 0x29 | 0x2b) | (0x66, 0x7f | 0xe7) => (16, true, true, op::MOVE),
            (0x66, 0x6e) => (wide, false, false, op::MOVE),
            (0x66, 0x7e) => (wide, true, false, op::MOVE),
            (0xf3, 0x7e) => (8, false, false, op::MOVE),
            (0x66, 0xd6) => (8, true, false, op::MOVE),
            _ => return Err(Stopped),
        };
        let memory = self.operand(Form::Rm, size, store)?;
        if aligned && memory.value % 16 != 0 {
            return Err(self.fault(Exception::GP));
        }
        if instruction.has(Prefixes::LOCK) {
            return Err(self.raise(Exception::invalid_opcode()));
        }
        let register = Place {
            kind: Kind::Vector,
            size,
            value: instruction.reg.into(),
        };
        let (target, source) = if store {
            (memory, register)
        } else {
            (register, memory)
        };
        Ok(Plan { op, source, target })
    }
}
