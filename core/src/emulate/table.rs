//! What follows an opcode, one byte of facts for each.
//!
//! Source: Intel SDM volume 2, "Opcode Map"; AMD APM volume 3, "Opcode and Operand Encodings".

/// What is known about an opcode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts(u8);

/// The immediate operand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    None,
    /// One byte, sign-extended.
    Byte,
    /// Two bytes.
    Word,
    /// Two or four bytes, sign-extended.
    Operand,
    /// As large as the operand, up to eight.
    Full,
    /// As large as an address: a plain offset.
    Offset,
    /// An offset and a selector.
    Far,
    /// A word and a byte.
    Enter,
    /// Two or four bytes, four in 64-bit mode: a jump.
    Jump,
    /// That of TEST in group 3, which the others of the group do not have.
    Group3,
}

const KINDS: [Immediate; 10] = [
    Immediate::None,
    Immediate::Byte,
    Immediate::Word,
    Immediate::Operand,
    Immediate::Full,
    Immediate::Offset,
    Immediate::Far,
    Immediate::Enter,
    Immediate::Jump,
    Immediate::Group3,
];

impl Facts {
    const MODRM: u8 = 0x10;
    const NOT_LONG: u8 = 0x20;
    const BYTE: u8 = 0x40;
    const WIDE: u8 = 0x80;
    const UNKNOWN: Self = Self(0xf);

    /// Has a ModRM byte.
    pub(super) const fn modrm(self) -> bool {
        self.0 & Self::MODRM != 0
    }

    /// Is no instruction in 64-bit mode.
    pub(super) const fn not_long(self) -> bool {
        self.0 & Self::NOT_LONG != 0
    }

    /// Has operands of one byte.
    pub(super) const fn byte(self) -> bool {
        self.0 & Self::BYTE != 0
    }

    /// Has operands of eight bytes in 64-bit mode without being told: stack and near jumps.
    pub(super) const fn wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }

    /// The immediate operand; [`None`] for what is not known.
    pub(super) fn immediate(self) -> Option<Immediate> {
        KINDS.get((self.0 & 0xf) as usize).copied()
    }
}

const M: u8 = Facts::MODRM;
const X: u8 = Facts::NOT_LONG;
const B: u8 = Facts::BYTE;
const W: u8 = Facts::WIDE;
const IB: u8 = Immediate::Byte as u8;
const IW: u8 = Immediate::Word as u8;
const IZ: u8 = Immediate::Operand as u8;
const IV: u8 = Immediate::Full as u8;
const OFFSET: u8 = Immediate::Offset as u8;
const FAR: u8 = Immediate::Far as u8;
const ENTER: u8 = Immediate::Enter as u8;
const JZ: u8 = Immediate::Jump as u8;
const GROUP3: u8 = Immediate::Group3 as u8;
const UNKNOWN: u8 = Facts::UNKNOWN.0;

/// Opcodes of one byte. Prefixes and escapes are never looked up.
pub(super) static PRIMARY: [Facts; 256] = build(false);
/// Opcodes after 0F.
pub(super) static SECONDARY: [Facts; 256] = build(true);
/// Opcodes after 0F 38.
pub(super) const THIRD_38: Facts = Facts(M);
/// Opcodes after 0F 3A.
pub(super) const THIRD_3A: Facts = Facts(M | IB);
/// Opcodes in the third map of XOP.
pub(super) const XOP_A: Facts = Facts(M | IZ);

const fn build(secondary: bool) -> [Facts; 256] {
    let mut table = [Facts::UNKNOWN; 256];
    let mut opcode = 0;
    while opcode < 256 {
        table[opcode] = Facts(if secondary {
            secondary_facts(opcode as u8)
        } else {
            primary_facts(opcode as u8)
        });
        opcode += 1;
    }
    table
}

const fn primary_facts(opcode: u8) -> u8 {
    match opcode {
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f => X | W,
        0x27 | 0x2f | 0x37 | 0x3f => X,
        0x00..=0x3f => match opcode & 7 {
            0 | 2 => M | B,
            1 | 3 => M,
            4 => B | IB,
            5 => IZ,
            _ => UNKNOWN,
        },
        0x40..=0x4f => X,
        0x50..=0x5f => W,
        0x60 | 0x61 => X,
        0x62 => M | X,
        0x63 => M,
        0x68 => W | IZ,
        0x69 => M | IZ,
        0x6a => W | IB,
        0x6b => M | IB,
        0x6c | 0x6e => B,
        0x6d | 0x6f => 0,
        0x70..=0x7f => W | IB,
        0x80 => M | B | IB,
        0x81 => M | IZ,
        0x82 => M | B | X | IB,
        0x83 => M | IB,
        0x84 | 0x86 | 0x88 | 0x8a => M | B,
        0x85 | 0x87 | 0x89 | 0x8b..=0x8e => M,
        0x8f => M | W,
        0x9a => X | FAR,
        0x9c | 0x9d => W,
        0x90..=0x9f => 0,
        0xa0 | 0xa2 => B | OFFSET,
        0xa1 | 0xa3 => OFFSET,
        0xa4 | 0xa6 | 0xaa | 0xac | 0xae => B,
        0xa5 | 0xa7 | 0xab | 0xad | 0xaf => 0,
        0xa8 => B | IB,
        0xa9 => IZ,
        0xb0..=0xb7 => B | IB,
        0xb8..=0xbf => IV,
        0xc0 | 0xc6 => M | B | IB,
        0xc1 => M | IB,
        0xc2 => W | IW,
        0xc3 | 0xc9 => W,
        0xc4 | 0xc5 => M | X,
        0xc7 => M | IZ,
        0xc8 => W | ENTER,
        0xca => IW,
        0xcd => IB,
        0xce => X,
        0xcb | 0xcc | 0xcf => 0,
        0xd0 | 0xd2 => M | B,
        0xd1 | 0xd3 => M,
        0xd4 | 0xd5 => X | IB,
        0xd6 => X,
        0xd7 => B,
        0xd8..=0xdf => M,
        0xe0..=0xe3 | 0xeb => W | IB,
        0xe4 | 0xe6 => B | IB,
        0xe5 | 0xe7 => IB,
        0xe8 | 0xe9 => W | JZ,
        0xea => X | FAR,
        0xec | 0xee => B,
        0xed | 0xef => 0,
        0xf1 | 0xf4 | 0xf5 | 0xf8..=0xfd => 0,
        0xf6 => M | B | GROUP3,
        0xf7 => M | GROUP3,
        0xfe => M | B,
        0xff => M,
        _ => UNKNOWN,
    }
}

const fn secondary_facts(opcode: u8) -> u8 {
    match opcode {
        0x00..=0x03 | 0x0d => M,
        0x05..=0x09 | 0x0b | 0x0e => 0,
        0x0f => M | IB,
        0x10..=0x23 | 0x28..=0x2f => M,
        0x30..=0x35 | 0x37 | 0x77 => 0,
        0x70..=0x73 => M | IB,
        0x40..=0x6f | 0x74..=0x76 | 0x78 | 0x79 | 0x7c..=0x7f => M,
        0x80..=0x8f => W | JZ,
        0x90..=0x9f => M | B,
        0xa0 | 0xa1 | 0xa8 | 0xa9 => W,
        0xa2 | 0xaa => 0,
        0xa4 | 0xac | 0xba => M | IB,
        0xa3 | 0xa5 | 0xab | 0xad..=0xaf => M,
        0xb0 | 0xc0 => M | B,
        0xc2 | 0xc4..=0xc6 => M | IB,
        0xb1..=0xb9 | 0xbb..=0xbf | 0xc1 | 0xc3 | 0xc7 => M,
        0xc8..=0xcf => 0,
        0xd0..=0xff => M,
        _ => UNKNOWN,
    }
}
