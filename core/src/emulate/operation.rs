//! What an instruction does, to which operands: by table.
use super::cpu::{Cpu, Stopped};
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::{Feature, Machine};
use super::op::{self, LOCKABLE, Use, using};
use super::operand::{Form, Kind, Place};
use crate::arch::Exception;

/// An operation with its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) op: u8,
    pub(super) source: Place,
    pub(super) target: Place,
}

/// The operation of some opcodes, and the forms of their operands.
#[derive(Clone, Copy)]
struct Row {
    opcode: u8,
    /// The bits of the opcode that do not matter.
    any: u8,
    /// The operation, and above it what is added to it.
    op: u8,
    target: Form,
    source: Form,
}

/// The extension is added to the operation.
const EXTENSION: u8 = 1 << 6;
/// Bits 5:3 of the opcode are.
const OPCODE: u8 = 1 << 7;

const fn row(opcode: u8, any: u8, op: u8, target: Form, source: Form) -> Row {
    Row {
        opcode,
        any,
        op,
        target,
        source,
    }
}

use Form::{
    Accumulator, Bit, Count, Destination, Immediate, Narrow, Nothing, Pop, Port, Push, Reg, Rm,
    Source, Special,
};

/// What accesses devices most often comes first.
static PRIMARY: [Row; 40] = [
    row(0x88, 1, op::MOVE, Rm, Reg),
    row(0x8a, 1, op::MOVE, Reg, Rm),
    row(0xc6, 1, op::MOVE, Rm, Immediate),
    row(0x6c, 1, op::MOVE, Destination, Port),
    row(0x6e, 1, op::MOVE, Port, Source),
    row(0xa4, 1, op::MOVE, Destination, Source),
    row(0xa6, 1, op::COMPARE, Destination, Source),
    row(0xaa, 1, op::MOVE, Destination, Accumulator),
    row(0xac, 1, op::MOVE, Accumulator, Source),
    row(0xae, 1, op::COMPARE, Destination, Accumulator),
    row(0x00, 0x39, op::ADD | OPCODE, Rm, Reg),
    row(0x02, 0x39, op::ADD | OPCODE, Reg, Rm),
    row(0x04, 0x39, op::ADD | OPCODE, Accumulator, Immediate),
    row(0x80, 3, op::ADD | EXTENSION, Rm, Immediate),
    row(0x84, 1, op::TEST, Rm, Reg),
    row(0x86, 1, op::EXCHANGE, Rm, Reg),
    row(0xa0, 1, op::MOVE, Accumulator, Rm),
    row(0xa2, 1, op::MOVE, Rm, Accumulator),
    row(0xa8, 1, op::TEST, Accumulator, Immediate),
    row(0xc0, 1, op::SHIFT | EXTENSION, Rm, Immediate),
    row(0xd0, 3, op::SHIFT | EXTENSION, Rm, Count),
    row(0xf6, 1, op::TEST | EXTENSION, Rm, Immediate),
    row(0xfe, 1, op::INC | EXTENSION, Rm, Nothing),
    row(0x40, 0xf, op::INC | OPCODE, Reg, Nothing),
    row(0x50, 7, op::MOVE, Push, Reg),
    row(0x58, 7, op::MOVE, Reg, Pop),
    row(0x63, 0, op::MOVE_SIGNED, Reg, Narrow),
    row(0x68, 2, op::MOVE, Push, Immediate),
    row(0x69, 2, op::MULTIPLY_SHORT, Reg, Rm),
    row(0x8c, 0, op::MOVE, Rm, Special),
    row(0x8d, 0, op::MOVE, Reg, Special),
    row(0x8f, 0, op::MOVE, Rm, Pop),
    row(0x90, 7, op::EXCHANGE, Reg, Accumulator),
    row(0x9c, 0, op::MOVE, Push, Special),
    row(0xb0, 0xf, op::MOVE, Reg, Immediate),
    row(0xc2, 1, op::JUMP, Nothing, Pop),
    row(0xd7, 0, op::MOVE, Accumulator, Special),
    row(0xe4, 9, op::MOVE, Accumulator, Port),
    row(0xe6, 9, op::MOVE, Port, Accumulator),
    row(0xe8, 0, op::CALL, Push, Special),
];
/// The members of group 5 that are no INC or DEC.
const CALL_INDIRECT: Row = row(0xff, 0, op::CALL, Push, Rm);
const JUMP_INDIRECT: Row = row(0xff, 0, op::JUMP, Nothing, Rm);
const PUSH_INDIRECT: Row = row(0xff, 0, op::MOVE, Push, Rm);
/// No-operations: hints, and what would act on a cache.
const NOTHING: Row = row(0, 0, op::NOTHING, Nothing, Nothing);

static SECONDARY: [Row; 16] = [
    row(0xb6, 1, op::MOVE, Reg, Narrow),
    row(0xbe, 1, op::MOVE_SIGNED, Reg, Narrow),
    row(0x40, 0xf, op::CONDITIONAL_MOVE, Reg, Rm),
    row(0x90, 0xf, op::SET, Rm, Nothing),
    row(0xa3, 0x18, op::GROUP_8 | OPCODE, Bit, Reg),
    row(0xba, 0, op::GROUP_8 | EXTENSION, Rm, Immediate),
    row(0xa4, 1, op::SHIFT_DOUBLE_LEFT, Rm, Reg),
    row(0xac, 1, op::SHIFT_DOUBLE_RIGHT, Rm, Reg),
    row(0xaf, 0, op::MULTIPLY_SHORT, Reg, Rm),
    row(0xb0, 1, op::COMPARE_EXCHANGE, Rm, Reg),
    row(0xb8, 0, op::POP_COUNT, Reg, Rm),
    row(0xbc, 0, op::SCAN_FORWARD, Reg, Rm),
    row(0xbd, 0, op::SCAN_REVERSE, Reg, Rm),
    row(0xc0, 1, op::EXCHANGE_ADD, Rm, Reg),
    row(0xc3, 0, op::MOVE, Rm, Reg),
    row(0xc7, 0, op::COMPARE_EXCHANGE_PAIR, Rm, Nothing),
];

/// MOVBE.
static THIRD_38: [Row; 2] = [
    row(0xf0, 0, op::MOVE_REVERSED, Reg, Rm),
    row(0xf1, 0, op::MOVE_REVERSED, Rm, Reg),
];

fn find(instruction: &Instruction) -> Option<Row> {
    let rows: &[Row] = match instruction.map {
        Map::Primary => &PRIMARY,
        Map::Secondary => &SECONDARY,
        Map::Third38 => &THIRD_38,
        Map::Third3A | Map::Extended => &[],
    };
    let fits = |row: &&Row| (row.opcode ^ instruction.opcode) & !row.any == 0;
    rows.iter().find(fits).copied()
}

impl<M: Machine> Cpu<'_, M> {
    /// Finds the operands of an instruction, moves the stack pointer, and checks the operands in
    /// memory against their segments.
    pub(super) fn plan(&mut self) -> Result<Plan, Stopped> {
        let Some(mut row) = find(self.instruction) else {
            return self.without_row();
        };
        let mut size = self.instruction.operand_size;
        self.refine(&mut row, &mut size)?;
        if row.target == Port || row.source == Port {
            size = size.min(4);
        }
        let number = match row.op & (EXTENSION | OPCODE) {
            EXTENSION => self.instruction.extension(),
            OPCODE => self.instruction.opcode >> 3 & 7,
            _ => 0,
        };
        let op = (row.op & 63) + number;
        let mut source = self.operand(row.source, size, false)?;
        if row.target == Push && source.kind == Kind::Register {
            // A push of the stack pointer pushes its old value.
            source.value = self.register(source.value as u8, size);
            source.kind = Kind::Value;
        }
        let using = using(op);
        let target = self.operand(row.target, size, using != Use::Read)?;
        let in_memory = target.kind == Kind::Memory;
        if size == 16 && target.value % 16 != 0 {
            return Err(self.fault(Exception::GP));
        }
        let lockable = in_memory && using == Use::Modify && LOCKABLE >> op & 1 != 0;
        if self.instruction.has(Prefixes::LOCK) && !lockable {
            return Err(self.raise(Exception::invalid_opcode()));
        }
        Ok(Plan { op, source, target })
    }

    /// What more than the opcode decides.
    fn refine(&mut self, row: &mut Row, size: &mut u8) -> Result<(), Stopped> {
        let instruction = self.instruction;
        let extension = instruction.extension();
        let in_memory = instruction.memory.is_some();
        let repeat = instruction.has(Prefixes::REP);
        let plain = !repeat && !instruction.has(Prefixes::REPNE);
        let mut exists = true;
        let known = match (instruction.map, instruction.opcode) {
            (Map::Primary, 0x63) => self.long,
            (Map::Primary, 0x8c) => {
                // In memory it has two bytes, whatever the operand size is.
                if in_memory {
                    *size = 2;
                }
                exists = extension < 6;
                true
            }
            (Map::Primary, 0x8d) => {
                exists = in_memory;
                true
            }
            (Map::Primary, 0x8f | 0xc6 | 0xc7) => extension == 0,
            (Map::Primary, 0x90) => {
                if instruction.reg == 0 {
                    *row = NOTHING;
                }
                true
            }
            (Map::Primary, 0x9c) => self.may_push_flags(),
            (Map::Primary, opcode @ (0xfe | 0xff)) if extension >= 2 => {
                exists = opcode == 0xff && extension != 7;
                *row = match extension {
                    2 => CALL_INDIRECT,
                    4 => JUMP_INDIRECT,
                    _ => PUSH_INDIRECT,
                };
                extension & 1 == 0
            }
            (Map::Secondary, 0xba) => extension >= 4,
            (Map::Secondary, 0xb8) => {
                exists = self.machine.has(Feature::Popcnt);
                repeat
            }
            (Map::Secondary, 0xbc) => {
                if repeat && self.machine.has(Feature::Tzcnt) {
                    row.op = op::TRAILING_ZEROS;
                }
                true
            }
            (Map::Secondary, 0xbd) => {
                if repeat && self.machine.has(Feature::Lzcnt) {
                    row.op = op::LEADING_ZEROS;
                }
                true
            }
            (Map::Secondary, 0xc3) => {
                exists = in_memory;
                plain
            }
            (Map::Secondary, 0xc7) => {
                *size = if *size == 8 { 16 } else { 8 };
                extension == 1 && in_memory
            }
            (Map::Third38, _) => {
                exists = in_memory && self.machine.has(Feature::Movbe);
                plain
            }
            _ => true,
        };
        if known && exists {
            Ok(())
        } else if known || !exists && instruction.map == Map::Primary {
            Err(self.raise(Exception::invalid_opcode()))
        } else {
            Err(Stopped)
        }
    }

    /// The rest of the map behind 0F: what does nothing, and moves of vector registers.
    fn without_row(&mut self) -> Result<Plan, Stopped> {
        let instruction = self.instruction;
        let nothing = match instruction.opcode {
            _ if instruction.map != Map::Secondary => return Err(Stopped),
            // Hints have no operand to look at.
            0x0d | 0x18..=0x1f => true,
            // CLFLUSH, CLFLUSHOPT and CLWB look at theirs.
            0xae if instruction.memory.is_some() => {
                let repeat = Prefixes::REP | Prefixes::REPNE;
                let first = if instruction.has(Prefixes::OPERAND) {
                    6
                } else {
                    7
                };
                let known = instruction.extension() >= first;
                if known && !instruction.prefixes.intersects(repeat) {
                    self.operand(Rm, 1, false)?;
                    true
                } else {
                    false
                }
            }
            _ => false,
        };
        if !nothing {
            return self.vector();
        }
        if instruction.has(Prefixes::LOCK) {
            return Err(self.raise(Exception::invalid_opcode()));
        }
        Ok(Plan {
            op: op::NOTHING,
            source: Place::NOTHING,
            target: Place::NOTHING,
        })
    }
}
