//! Encodings of an instruction: what is fixed about it, and the rest at random.
use waterbear_core::arch::Rflags;
use waterbear_core::regs::Regs;
use waterbear_proofs::random::Random;

use crate::host::DATA;

pub const CF: u64 = Rflags::CF.bits();
pub const PF: u64 = Rflags::PF.bits();
pub const AF: u64 = Rflags::AF.bits();
pub const ZF: u64 = Rflags::ZF.bits();
pub const SF: u64 = Rflags::SF.bits();
pub const OF: u64 = Rflags::OF.bits();
/// All of them.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// Which operands and values a form needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any.
    Plain,
    /// The reg operand is a bit's number, near enough.
    BitNumber,
    /// The dividend is often small enough.
    Divide,
    /// RAX, and RDX, are often what is compared with.
    Compare,
    /// The source is the next instruction's address.
    Branch,
    /// A shift by CL, by an immediate or by one.
    Shift,
    /// A shift of two operands.
    ShiftDouble,
    /// The source is 0 at times.
    Sparse,
}

/// The immediate operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Immediate {
    None,
    Byte,
    /// As the operand, up to four bytes.
    Operand,
}

/// An instruction with ModRM.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Prefix that belongs to the opcode.
    pub prefix: Option<u8>,
    pub opcode: &'static [u8],
    /// The opcode's extension, in place of a register.
    pub extension: Option<u8>,
    pub immediate: Immediate,
    /// Sizes of the operand.
    pub sizes: &'static [u8],
    /// Without a form between registers.
    pub memory_only: bool,
    /// Takes LOCK.
    pub lock: bool,
    pub kind: Kind,
    /// Flags that are not defined.
    pub undefined: u64,
}

pub const BYTE: &[u8] = &[1];
pub const WORDS: &[u8] = &[2, 4, 8];

impl Form {
    pub const fn new(opcode: &'static [u8], sizes: &'static [u8]) -> Self {
        Self {
            prefix: None,
            opcode,
            extension: None,
            immediate: Immediate::None,
            sizes,
            memory_only: false,
            lock: false,
            kind: Kind::Plain,
            undefined: 0,
        }
    }

    pub const fn extension(self, extension: u8) -> Self {
        Self {
            extension: Some(extension),
            ..self
        }
    }

    pub const fn prefix(self, prefix: u8) -> Self {
        Self {
            prefix: Some(prefix),
            ..self
        }
    }

    pub const fn immediate(self, immediate: Immediate) -> Self {
        Self { immediate, ..self }
    }

    pub const fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub const fn undefined(self, undefined: u64) -> Self {
        Self { undefined, ..self }
    }

    pub const fn memory_only(self) -> Self {
        Self {
            memory_only: true,
            ..self
        }
    }

    pub const fn lock(self) -> Self {
        Self { lock: true, ..self }
    }
}

/// One instruction with the state it begins in.
pub struct Case {
    pub bytes: Vec<u8>,
    pub regs: Regs,
    pub memory: Vec<u8>,
    pub undefined: u64,
}

/// Numbers at the edges, and others.
pub fn value(random: &mut Random) -> u64 {
    let number = random.number();
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1,
        3 => 1 << (number & 63),
        4 => (1 << (number & 63)) - 1,
        5 => number as i8 as u64,
        _ => number,
    }
}

/// Registers and memory at random; the stack pointer leads into the data.
pub fn state(random: &mut Random, data: u64) -> (Regs, Vec<u8>) {
    let mut regs = Regs::default();
    for register in &mut regs.general {
        *register = value(random);
    }
    regs.general[Regs::RSP] = data + 1024 + random.below(4096);
    regs.rflags = 2 | random.number() & STATUS;
    let mut memory = Vec::new();
    while memory.len() < DATA {
        memory.extend(random.number().to_le_bytes());
    }
    (regs, memory)
}

/// ModRM and what follows.
struct Operand {
    modrm: u8,
    sib: Option<u8>,
    displacement: Vec<u8>,
    /// REX.X and REX.B.
    rex: u8,
    address_prefix: bool,
    /// Where it is in the data.
    at: Option<u64>,
}

/// A memory operand, and the registers that lead to it.
fn memory(random: &mut Random, regs: &mut Regs, data: u64, aligned: bool) -> Operand {
    let mut at = 2048 + random.below(DATA as u64 - 4096);
    if aligned {
        at &= !15;
    }
    let address = data + at;
    let short = random.percent(50);
    let displacement = if short {
        random.number() as i8 as i64
    } else {
        random.number() as i32 as i64 >> 8
    };
    let base = random.pick(&[3_u8, 5, 6, 9, 12, 13, 15]);
    let index = random.pick(&[7_u8, 10, 11]);
    let scale = random.below(4) as u8;
    let needs_sib = base & 7 == 4;
    let with_index = needs_sib || random.percent(50);
    let mut rest = address.wrapping_sub(displacement as u64);
    let mut operand = Operand {
        modrm: if short { 0x40 } else { 0x80 } | base & 7,
        sib: None,
        displacement: displacement.to_le_bytes()[..if short { 1 } else { 4 }].to_vec(),
        rex: base >> 3,
        address_prefix: random.percent(20),
        at: Some(at),
    };
    if with_index {
        let count = random.below(1000);
        regs.general[usize::from(index)] = count;
        rest = rest.wrapping_sub(count << scale);
        operand.modrm = operand.modrm & 0xc0 | 4;
        operand.sib = Some(scale << 6 | (index & 7) << 3 | base & 7);
        operand.rex |= index >> 3 << 1;
    }
    if operand.address_prefix {
        // What is above 4 GiB does not count.
        rest = rest & 0xffff_ffff | random.number() << 32;
    }
    regs.general[usize::from(base)] = rest;
    operand
}

fn register(random: &mut Random) -> u8 {
    loop {
        let register = random.below(16) as u8;
        if register != Regs::RSP as u8 {
            return register;
        }
    }
}

/// An instruction of this form at `rip`, with its data from `data` on; none if what it does is not
/// defined.
pub fn case(form: &Form, random: &mut Random, data: u64, rip: u64) -> Option<Case> {
    let (mut regs, mut data_bytes) = state(random, data);
    let size = random.pick(form.sizes);
    let pair = form.opcode == [0x0f, 0xc7];
    let in_memory = form.memory_only || random.percent(70);
    let operand = if in_memory {
        memory(random, &mut regs, data, pair)
    } else {
        let rm = register(random);
        let (modrm, rex) = (0xc0 | rm & 7, rm >> 3);
        let (sib, displacement, address_prefix, at) = (None, Vec::new(), false, None);
        Operand {
            modrm,
            sib,
            displacement,
            rex,
            address_prefix,
            at,
        }
    };
    let mut reg = form.extension.unwrap_or_else(|| register(random));
    if form.kind == Kind::BitNumber && in_memory {
        // Not one that leads to the operand.
        reg = random.pick(&[0, 1, 2, 8]);
        regs.general[usize::from(reg)] = (random.below(8000) as i64 - 4000) as u64;
    }
    let mut bytes = Vec::new();
    bytes.extend(form.prefix);
    if size == 2 {
        bytes.push(0x66);
    }
    if operand.address_prefix {
        bytes.push(0x67);
    }
    let locked = form.lock && in_memory && random.percent(30);
    if locked {
        bytes.push(0xf0);
    }
    let wide = u8::from(size == 8 && form.kind != Kind::Branch);
    let rex = wide << 3 | reg >> 3 << 2 | operand.rex;
    if rex != 0 || random.percent(20) {
        bytes.push(0x40 | rex);
    }
    bytes.extend(form.opcode);
    bytes.push(operand.modrm | (reg & 7) << 3);
    bytes.extend(operand.sib);
    bytes.extend(&operand.displacement);
    let immediate = value(random).to_le_bytes();
    let count = match form.immediate {
        Immediate::None => 0,
        Immediate::Byte => 1,
        Immediate::Operand => usize::from(size.min(4)),
    };
    bytes.extend(&immediate[..count]);

    let next = rip + bytes.len() as u64;
    let rm = usize::from(operand.modrm & 7 | (operand.rex & 1) << 3);
    let mut put = |value: u64, count: usize, regs: &mut Regs| match operand.at {
        Some(at) => {
            let at = at as usize;
            data_bytes[at..at + count].copy_from_slice(&value.to_le_bytes()[..count]);
        }
        None => regs.general[rm] = value,
    };
    let mut undefined = form.undefined;
    match form.kind {
        Kind::Branch => put(next, 8, &mut regs),
        Kind::Sparse if random.percent(50) => {
            let sparse = value(random);
            put(sparse, 8, &mut regs);
        }
        Kind::Divide if random.percent(70) => {
            let low = value(random);
            put(random.number() >> random.below(60), 8, &mut regs);
            if size == 1 {
                regs.general[Regs::RAX] = low as i8 as u64;
            } else if in_memory || rm != Regs::RDX && rm != Regs::RAX {
                regs.general[Regs::RAX] = low;
                let shift = 64 - u32::from(size) * 8;
                let sign = ((low << shift) as i64 >> 63) as u64;
                let small = random.below(100);
                regs.general[Regs::RDX] = random.pick(&[0, sign, small]);
            }
        }
        Kind::Compare if random.percent(50) => {
            if pair {
                let at = operand.at.unwrap() as usize;
                let half = usize::from(size);
                let load = |at: usize| {
                    let mut bytes = [0; 8];
                    bytes[..half].copy_from_slice(&data_bytes[at..at + half]);
                    u64::from_le_bytes(bytes)
                };
                regs.general[Regs::RAX] = load(at);
                regs.general[Regs::RDX] = load(at + half);
            } else {
                let expected = regs.general[Regs::RAX];
                put(expected, usize::from(size), &mut regs);
            }
        }
        Kind::Shift | Kind::ShiftDouble => {
            let by = match (form.immediate, form.opcode.last()) {
                (Immediate::Byte, _) => immediate[0],
                (_, Some(0xd0 | 0xd1)) => 1,
                _ => regs.general[Regs::RCX] as u8,
            };
            let by = by & if size == 8 { 63 } else { 31 };
            if form.kind == Kind::ShiftDouble && by > size * 8 {
                return None;
            }
            let rotates = form.kind == Kind::Shift && reg < 4;
            if by > 1 {
                undefined |= OF;
            }
            if by > 0 && !rotates {
                undefined |= AF;
            }
            if by >= size * 8 && !rotates && reg & 7 != 7 {
                undefined |= CF;
            }
        }
        _ => {}
    }
    Some(Case {
        bytes,
        regs,
        memory: data_bytes,
        undefined,
    })
}
