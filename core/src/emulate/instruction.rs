//! A decoded instruction.
use crate::arch::SegmentName;

/// The size that a code segment gives operands and addresses by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode and 16-bit segments.
    Bits16,
    /// 32-bit segments.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// The table that an opcode is an index of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Map {
    /// Opcodes of one byte.
    #[default]
    Primary,
    /// After 0F.
    Secondary,
    /// After 0F 38.
    Third38,
    /// After 0F 3A.
    Third3A,
    /// VEX, EVEX, XOP and 3DNow!: only the length is known.
    Extended,
}

bitflags::bitflags! {
    /// The prefixes that an instruction has.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Prefixes: u8 {
        /// F0.
        const LOCK = 1 << 0;
        /// F3, and no F2 behind it.
        const REP = 1 << 1;
        /// F2, and no F3 behind it.
        const REPNE = 1 << 2;
        /// 66.
        const OPERAND = 1 << 3;
        /// 67.
        const ADDRESS = 1 << 4;
        /// A REX prefix that counts.
        const REX = 1 << 5;
    }
}

/// A memory operand's offset in its segment: base + index << scale + displacement, in the
/// instruction's address size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// The number of the base register.
    pub base: Option<u8>,
    /// The number of the index register.
    pub index: Option<u8>,
    /// What the index is shifted by, 0 to 3.
    pub scale: u8,
    /// The displacement, sign-extended.
    pub displacement: u64,
    /// Relative to the address of the next instruction.
    pub rip_relative: bool,
    /// The segment.
    pub segment: SegmentName,
}

/// A decoded instruction: what it is and what its operands are, nothing about what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Instruction {
    /// Bytes, 1 to 15.
    pub length: u8,
    /// The opcode's map.
    pub map: Map,
    /// The opcode.
    pub opcode: u8,
    /// The prefixes.
    pub prefixes: Prefixes,
    /// Bytes of the operand: 1, 2, 4 or 8.
    pub operand_size: u8,
    /// Bytes of an address: 2, 4 or 8.
    pub address_size: u8,
    /// The segment that a prefix names, if it counts.
    pub segment: Option<SegmentName>,
    /// The reg field of ModRM with its REX bit. Without ModRM, the register in the opcode's low
    /// three bits with its REX bit.
    pub reg: u8,
    /// The rm field of ModRM with its REX bit: a register, where [`memory`](Self::memory) is
    /// [`None`].
    pub rm: u8,
    /// The memory operand of ModRM, or of a MOV with a plain offset.
    pub memory: Option<Memory>,
    /// The immediate operand, sign-extended where the instruction does that; for a far pointer the
    /// offset; for ENTER the first.
    pub immediate: u64,
    /// The selector of a far pointer; the second immediate of ENTER.
    pub immediate2: u16,
}

impl Instruction {
    /// Whether it has the prefix.
    pub fn has(&self, prefix: Prefixes) -> bool {
        self.prefixes.contains(prefix)
    }

    /// The reg field of ModRM as the extension of an opcode, 0 to 7.
    pub fn extension(&self) -> u8 {
        self.reg & 7
    }
}
