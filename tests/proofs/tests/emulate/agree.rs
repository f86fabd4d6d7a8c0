//! Whether our decoder and another one take the same bytes for the same instruction.
use iced_x86::{Decoder, DecoderError, DecoderOptions, OpKind, Register};
use waterbear_core::emulate::{CodeSize, DecodeError, Instruction, Map, Memory, Prefixes, decode};

/// Where the instruction is taken to be.
const RIP: u64 = 0x7654_3210;

/// All sizes of code.
pub const SIZES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

/// Compares what the two say about `bytes`, of which there are 15 at least.
pub fn check(bytes: &[u8], size: CodeSize) -> Result<(), String> {
    let bits = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let rip = if bits == 16 { RIP & 0xffff } else { RIP };
    let mut other = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE);
    let theirs = other.decode();
    let ours = decode(bytes, size);
    let complain = |what: &str| {
        let shown = &bytes[..bytes.len().min(15)];
        Err(format!(
            "{what}: {shown:02x?} {bits} bits\n{ours:?}\n{theirs:?}"
        ))
    };
    match (other.last_error(), ours) {
        // What does not exist may have a length with us.
        (DecoderError::InvalidInstruction, _) => Ok(()),
        (DecoderError::None, Ok(ours)) => {
            if usize::from(ours.length) != theirs.len() {
                return complain("length");
            }
            match operands(&ours, &theirs, rip) {
                Ok(()) => Ok(()),
                Err(what) => complain(what),
            }
        }
        (DecoderError::None, Err(DecodeError::Unknown)) if !is_needed(bytes, size) => Ok(()),
        (DecoderError::NoMoreBytes, Err(DecodeError::More | DecodeError::Unknown)) => Ok(()),
        // They want more before they say that it does not exist.
        (DecoderError::NoMoreBytes, Ok(_)) if bytes.len() < 15 => {
            let mut more = bytes.to_vec();
            more.resize(24, 0);
            let mut other = Decoder::with_ip(bits, &more, rip, DecoderOptions::NONE);
            let _ = other.decode();
            if other.last_error() == DecoderError::InvalidInstruction {
                return Ok(());
            }
            complain("they want more")
        }
        _ => complain("not the same"),
    }
}

/// The opcodes that we may not know.
fn is_needed(bytes: &[u8], _size: CodeSize) -> bool {
    let opcodes: Vec<u8> = bytes
        .iter()
        .copied()
        .skip_while(|b| is_prefix(*b))
        .take(2)
        .collect();
    match opcodes[..] {
        // VEX and its relatives after a prefix that makes them illegal, and instructions of VIA's.
        [0x62 | 0xc4 | 0xc5 | 0x8f, _] => false,
        [
            0x0f,
            0xa6 | 0xa7 | 0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x36 | 0x39 | 0x3b..=0x3f,
        ] => false,
        _ => true,
    }
}

fn is_prefix(byte: u8) -> bool {
    let legacy = [
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    ];
    legacy.contains(&byte) || byte & 0xf0 == 0x40
}

fn operands(
    ours: &Instruction,
    theirs: &iced_x86::Instruction,
    rip: u64,
) -> Result<(), &'static str> {
    if ours.map == Map::Extended {
        return Ok(());
    }
    // The operand of XLAT is not in ModRM.
    let xlat = ours.map == Map::Primary && ours.opcode == 0xd7;
    let has_memory = !xlat && (0..theirs.op_count()).any(|n| theirs.op_kind(n) == OpKind::Memory);
    match &ours.memory {
        Some(memory) if has_memory => same_memory(ours, memory, theirs, rip)?,
        // The register of a bound instruction may be an opcode of its own.
        Some(_) => return Err("they have no memory operand"),
        None if has_memory => return Err("we have no memory operand"),
        None => {}
    }
    for n in 0..theirs.op_count() {
        same_immediate(ours, theirs, n, rip)?;
    }
    let moves = matches!(ours.opcode, 0x84..=0x8b);
    let arithmetic = ours.opcode < 0x40 && ours.opcode & 7 < 4;
    if ours.map == Map::Primary && (moves || arithmetic) {
        same_registers(ours, theirs)?;
    }
    Ok(())
}

fn same_memory(
    ours: &Instruction,
    memory: &Memory,
    theirs: &iced_x86::Instruction,
    rip: u64,
) -> Result<(), &'static str> {
    let mask = mask(ours.address_size);
    let next = rip.wrapping_add(u64::from(ours.length));
    let displacement = memory
        .displacement
        .wrapping_add(if memory.rip_relative { next } else { 0 });
    if (displacement ^ theirs.memory_displacement64()) & mask != 0 {
        return Err("displacement");
    }
    let base = match theirs.memory_base() {
        Register::None | Register::RIP | Register::EIP => None,
        register => Some(register.number() as u8),
    };
    if base != memory.base || theirs.is_ip_rel_memory_operand() != memory.rip_relative {
        return Err("base");
    }
    let index = match theirs.memory_index() {
        Register::None => None,
        register => Some(register.number() as u8),
    };
    if index != memory.index || index.is_some() && theirs.memory_index_scale() != 1 << memory.scale
    {
        return Err("index");
    }
    // They show a prefix that has no effect in 64-bit mode.
    let shown = theirs.segment_prefix();
    let ignored = shown != Register::None && ours.segment.is_none();
    if !ignored && theirs.memory_segment() != Register::ES + memory.segment as u32 {
        return Err("segment");
    }
    Ok(())
}

fn same_immediate(
    ours: &Instruction,
    theirs: &iced_x86::Instruction,
    n: u32,
    rip: u64,
) -> Result<(), &'static str> {
    let same = match theirs.op_kind(n) {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            let to = rip
                .wrapping_add(u64::from(ours.length))
                .wrapping_add(ours.immediate);
            let size = match theirs.op_kind(n) {
                OpKind::NearBranch16 => 2,
                OpKind::NearBranch32 => 4,
                _ => 8,
            };
            (to ^ theirs.near_branch_target()) & mask(size) == 0
        }
        OpKind::FarBranch16 => {
            ours.immediate as u16 == theirs.far_branch16()
                && ours.immediate2 == theirs.far_branch_selector()
        }
        OpKind::FarBranch32 => {
            ours.immediate as u32 == theirs.far_branch32()
                && ours.immediate2 == theirs.far_branch_selector()
        }
        OpKind::Immediate8_2nd => {
            // ENTER and EXTRQ have two.
            ours.immediate2 as u8 == theirs.immediate8_2nd()
                || (ours.immediate >> 8) as u8 == theirs.immediate8_2nd()
        }
        // Shifts by one have it in the opcode.
        OpKind::Immediate8 if matches!(ours.opcode, 0xd0..=0xd3) => true,
        OpKind::Immediate8 => ours.immediate as u8 == theirs.immediate8(),
        OpKind::Immediate16 => ours.immediate as u16 == theirs.immediate16(),
        OpKind::Immediate32 => ours.immediate as u32 == theirs.immediate32(),
        OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => {
            let size = ours.operand_size;
            (ours.immediate ^ theirs.immediate(n)) & mask(size) == 0
        }
        _ => true,
    };
    if same { Ok(()) } else { Err("immediate") }
}

/// Instructions that have a reg and an rm operand of the same size.
fn same_registers(ours: &Instruction, theirs: &iced_x86::Instruction) -> Result<(), &'static str> {
    let rm_first = ours.opcode & 2 == 0 || matches!(ours.opcode, 0x86 | 0x87);
    let (rm, reg) = if rm_first { (0, 1) } else { (1, 0) };
    let is = |n, number: u8| {
        let register = theirs.op_register(n);
        let theirs = register.number();
        // They number AL to BH, then SPL to DIL, then the others.
        let (theirs, high) = match (register.size(), theirs) {
            (1, 8..) => (theirs - 4, false),
            (1, 4..) => (theirs, true),
            _ => (theirs, false),
        };
        theirs == usize::from(number)
            && register.size() == usize::from(ours.operand_size)
            && !(high && ours.has(Prefixes::REX))
    };
    if !is(reg, ours.reg) {
        return Err("reg");
    }
    if ours.memory.is_none() && !is(rm, ours.rm) {
        return Err("rm");
    }
    Ok(())
}

fn mask(size: u8) -> u64 {
    if size == 8 {
        u64::MAX
    } else {
        (1 << (size * 8)) - 1
    }
}
