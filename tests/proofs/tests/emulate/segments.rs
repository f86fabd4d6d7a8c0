//! Segments, modes and privileges, by table.
use waterbear_core::arch::{Attributes, Cr0, Cr4, Exception, Rflags, Segment, SegmentName};
use waterbear_core::emulate::{Access, Done, Stop};
use waterbear_core::regs::Regs;

use crate::flat::{Call, Flat};

fn gp() -> Stop {
    Stop::Exception(Exception::general_protection(0))
}

fn ss() -> Stop {
    Stop::Exception(Exception::with_error(Exception::SS, 0))
}

/// Where the only read or write went.
fn linear(flat: &Flat) -> u64 {
    match flat.log[..] {
        [Call::Read(linear, ..) | Call::Write(linear, _)] => linear,
        ref log => panic!("{log:x?}"),
    }
}

const READABLE: Attributes = Attributes::WRITABLE_OR_READABLE;

/// A segment with these attributes besides the ones that each has.
fn segment(more: Attributes, limit: u32) -> Segment {
    let attributes = Attributes::PRESENT | Attributes::CODE_OR_DATA | more;
    Segment {
        selector: 0x10,
        attributes,
        limit,
        base: 0,
    }
}

#[test]
fn segments_are_checked_for_their_kind_and_their_limit() {
    let read: &[u8] = &[0x8b, 0x03]; // MOV EAX, [EBX]
    let write: &[u8] = &[0x89, 0x03]; // MOV [EBX], EAX
    let modify: &[u8] = &[0x01, 0x03]; // ADD [EBX], EAX
    let data = READABLE | Attributes::BIG;
    let down = data | Attributes::DOWN_OR_CONFORMING;
    let small_down = READABLE | Attributes::DOWN_OR_CONFORMING;
    let code = Attributes::CODE;
    let cases: [(&str, Segment, u32, &[u8], bool); 25] = [
        ("the last bytes", segment(data, 0xfff), 0xffc, read, true),
        ("beyond the limit", segment(data, 0xfff), 0xffd, read, false),
        (
            "a write of the last bytes",
            segment(data, 0xfff),
            0xffc,
            write,
            true,
        ),
        (
            "a write beyond the limit",
            segment(data, 0xfff),
            0xffd,
            write,
            false,
        ),
        (
            "around the end of 4 GiB",
            segment(data, u32::MAX),
            0xffff_fffe,
            read,
            false,
        ),
        (
            "far beyond the limit",
            segment(data, 0xfff),
            0x8000_0000,
            read,
            false,
        ),
        (
            "below an expand-down segment",
            segment(down, 0xfff),
            0xfff,
            read,
            false,
        ),
        (
            "an expand-down segment",
            segment(down, 0xfff),
            0x1000,
            write,
            true,
        ),
        (
            "expand-down up to 4 GiB",
            segment(down, 0xfff),
            0xffff_fffd,
            read,
            false,
        ),
        (
            "expand-down up to 64 KiB",
            segment(small_down, 0xfff),
            0xfffd,
            read,
            false,
        ),
        (
            "expand-down below 64 KiB",
            segment(small_down, 0xfff),
            0xfffc,
            read,
            true,
        ),
        (
            "expand-down, nothing left",
            segment(down, u32::MAX),
            0xffff_ff00,
            read,
            false,
        ),
        (
            "reading read-only data",
            segment(Attributes::empty(), 0xffff),
            0x100,
            read,
            true,
        ),
        (
            "writing read-only data",
            segment(Attributes::empty(), 0xffff),
            0x100,
            write,
            false,
        ),
        (
            "changing read-only data",
            segment(Attributes::empty(), 0xffff),
            0x100,
            modify,
            false,
        ),
        (
            "reading readable code",
            segment(code | READABLE, 0xffff),
            0x100,
            read,
            true,
        ),
        (
            "writing readable code",
            segment(code | READABLE, 0xffff),
            0x100,
            write,
            false,
        ),
        ("reading code", segment(code, 0xffff), 0x100, read, false),
        ("writing code", segment(code, 0xffff), 0x100, write, false),
        (
            "conforming code does not expand down",
            segment(code | READABLE | Attributes::DOWN_OR_CONFORMING, 0xffff),
            0x100,
            read,
            true,
        ),
        ("changing data", segment(data, 0xffff), 0x100, modify, true),
        (
            "changing beyond the limit",
            segment(data, 0xff),
            0x100,
            modify,
            false,
        ),
        (
            "an unusable segment",
            Segment::default(),
            0x100,
            read,
            false,
        ),
        (
            "writing an unusable segment",
            Segment::default(),
            0x100,
            write,
            false,
        ),
        (
            "the first byte beyond",
            segment(data, 0xff),
            0x100,
            read,
            false,
        ),
    ];
    for (what, ds, offset, bytes, allowed) in cases {
        for stack in [false, true] {
            let mut flat = Flat::protected(0, 0x2_0000);
            let name = if stack {
                SegmentName::Ss
            } else {
                SegmentName::Ds
            };
            *flat.segment_mut(name) = ds;
            flat.regs.general[Regs::RBX] = u64::from(offset);
            let before = flat.regs;
            let bytes = if stack {
                [&[0x36], bytes].concat()
            } else {
                bytes.to_vec()
            };
            let result = flat.execute(&bytes);
            if allowed {
                assert_eq!(result, Ok(Done::Retired), "{what}");
                continue;
            }
            let Err(Stop::Exception(exception)) = result else {
                panic!("{what}: {result:?}")
            };
            let present = ds.attributes.contains(Attributes::PRESENT);
            let wrong_kind = present && (what.contains("read-only") || what.ends_with(" code"));
            let vector = if stack && !wrong_kind {
                Exception::SS
            } else {
                Exception::GP
            };
            assert_eq!(
                (exception.vector, exception.error),
                (vector, Some(0)),
                "{what}"
            );
            assert_eq!(flat.regs, before, "{what}");
            assert_eq!(flat.log, [], "{what}");
        }
    }
}

#[test]
fn real_mode_has_bases_and_limits_but_no_kinds_and_no_error_codes() {
    let mut flat = Flat::real(0, 0x11_0000);
    flat.segment_mut(SegmentName::Ds).base = 0xffff0;
    flat.segment_mut(SegmentName::Ds).attributes = Attributes::empty();
    flat.regs.general[Regs::RBX] = 0x1_8000;
    flat.regs.general[Regs::RSI] = 0x1_8010;
    // MOV AX, [BX+SI]: the offset has 16 bits, the address more than 20.
    assert_eq!(flat.execute(&[0x8b, 0x00]), Ok(Done::Retired));
    assert_eq!(linear(&flat), 0x10_0000);
    // A word at offset FFFF.
    flat.regs.general[Regs::RBX] = 0xffff;
    let plain = |vector| Err(Stop::Exception(Exception::plain(vector)));
    assert_eq!(flat.execute(&[0x8b, 0x07]), plain(Exception::GP));
    flat.regs.general[Regs::RBP] = 0xffff;
    assert_eq!(flat.execute(&[0x8b, 0x46, 0x00]), plain(Exception::SS));
    // A 32-bit address beyond the limit.
    flat.regs.general[Regs::RBX] = 0x1_0000;
    assert_eq!(flat.execute(&[0x67, 0x8a, 0x03]), plain(Exception::GP));
}

#[test]
fn virtual_8086_mode_is_like_real_mode_with_error_codes() {
    let mut flat = Flat::real(0, 0x1_0000);
    flat.cr0 |= Cr0::PE;
    flat.cpl = 3;
    flat.regs.rflags |= Rflags::VM.bits();
    flat.segment_mut(SegmentName::Ds).attributes = Attributes::empty();
    assert_eq!(flat.execute(&[0x8b, 0x07]), Ok(Done::Retired));
    flat.regs.general[Regs::RBX] = 0xffff;
    assert_eq!(flat.execute(&[0x8b, 0x07]), Err(gp()));
}

#[test]
fn linear_addresses_have_32_bits_outside_of_64_bit_mode() {
    let mut flat = Flat::protected(0, 0x1000);
    flat.segment_mut(SegmentName::Es).base = 0xffff_ff00;
    flat.regs.general[Regs::RBX] = 0x180;
    assert_eq!(flat.execute(&[0x26, 0x8b, 0x03]), Ok(Done::Retired));
    assert_eq!(linear(&flat), 0x80);
    // 16-bit addresses wrap in the offset.
    let mut flat = Flat::protected(0, 0x1_0000);
    flat.regs.general[Regs::RBX] = 0xffff;
    flat.regs.general[Regs::RSI] = 0x11;
    assert_eq!(flat.execute(&[0x67, 0x8b, 0x00]), Ok(Done::Retired));
    assert_eq!(linear(&flat), 0x10);
}

#[test]
fn sixty_four_bit_mode_knows_bases_of_fs_and_gs_only_and_wants_canonical_addresses() {
    let machine = || {
        let mut flat = Flat::long(0x1000, 0x1000);
        for segment in &mut flat.segments {
            segment.base = 0x40;
            segment.limit = 0;
        }
        flat.regs.general[Regs::RBX] = 0x1100;
        flat.regs.general[Regs::RBP] = 0x1100;
        flat
    };
    // Prefix, and what is added.
    for (prefix, base) in [
        (0x26, 0),
        (0x2e, 0),
        (0x36, 0),
        (0x3e, 0),
        (0x64, 0x40),
        (0x65, 0x40),
    ] {
        let mut flat = machine();
        assert_eq!(flat.execute(&[prefix, 0x8b, 0x03]), Ok(Done::Retired));
        assert_eq!(linear(&flat), 0x1100 + base);
    }
    let edge = 0x7fff_ffff_fffd;
    // Bytes, RBX and RBP, and what comes of it.
    let cases: [(&[u8], u64, Stop); 7] = [
        (&[0x8b, 0x03], edge, gp()),             // MOV EAX, [RBX]
        (&[0x8b, 0x45, 0x00], edge, ss()),       // MOV EAX, [RBP]
        (&[0x64, 0x8b, 0x45, 0x00], edge, gp()), // MOV EAX, FS:[RBP]
        (&[0x3e, 0x8b, 0x45, 0x00], edge, ss()), // DS does not count
        (&[0x8b, 0x03], 0x8000_0000_0000, gp()),
        (&[0x89, 0x03], 0xffff_7fff_ffff_fff0, gp()),
        (&[0x8b, 0x03], 0x1234_5678_9abc_def0, gp()),
    ];
    for (bytes, address, stop) in cases {
        let mut flat = machine();
        flat.regs.general[Regs::RBX] = address;
        flat.regs.general[Regs::RBP] = address;
        assert_eq!(flat.execute(bytes), Err(stop), "{bytes:02x?}");
        assert_eq!(flat.log, []);
    }
    // One byte fits, and five levels of paging move the edge.
    let mut flat = machine();
    flat.regs.general[Regs::RBX] = 0x7fff_ffff_ffff;
    let missing = |address| Err(Stop::Exception(Exception::page_fault(address, 0)));
    assert_eq!(flat.execute(&[0x8a, 0x03]), missing(0x7fff_ffff_ffff));
    flat.cr4 |= Cr4::LA57;
    assert_eq!(flat.execute(&[0x8b, 0x03]), missing(0x7fff_ffff_ffff));
    flat.regs.general[Regs::RBX] = 0xff_ffff_ffff_ffff;
    assert_eq!(flat.execute(&[0x8b, 0x03]), Err(gp()));
}

#[test]
fn addresses_relative_to_rip_count_from_the_next_instruction() {
    let mut flat = Flat::long(0x1000, 0x1000);
    flat.regs.rip = 0x1100;
    // ADD DWORD [RIP+10h], 5: the immediate is part of the instruction.
    let bytes = [0x83, 0x05, 0x10, 0, 0, 0, 0x05];
    assert_eq!(flat.execute(&bytes), Ok(Done::Retired));
    assert_eq!(flat.log[0], Call::Read(0x1117, 4, Access::Modify));
}

#[test]
fn the_stack_is_as_wide_as_its_segment_says() {
    let mut flat = Flat::protected(0, 0x2_0000);
    flat.regs.general[Regs::RSP] = 0x1_0002;
    flat.regs.general[Regs::RAX] = 0xaabb_ccdd;
    // PUSH EAX with a 16-bit stack: SP wraps, the upper half stays.
    flat.segment_mut(SegmentName::Ss)
        .attributes
        .remove(Attributes::BIG);
    assert_eq!(flat.execute(&[0x50]), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RSP], 0x1_fffe);
    assert_eq!(linear(&flat), 0xfffe);
    // The same with a 32-bit stack.
    flat.segment_mut(SegmentName::Ss)
        .attributes
        .insert(Attributes::BIG);
    flat.regs.general[Regs::RSP] = 0x1_0002;
    flat.log.clear();
    assert_eq!(flat.execute(&[0x50]), Ok(Done::Retired));
    assert_eq!(linear(&flat), 0xfffe);
    assert_eq!(flat.regs.general[Regs::RSP], 0xfffe);
    // A stack that is too small: #SS, and nothing has moved.
    flat.segment_mut(SegmentName::Ss).limit = 0xfff;
    flat.segment_mut(SegmentName::Ss)
        .attributes
        .remove(Attributes::GRANULARITY);
    assert_eq!(flat.execute(&[0x50]), Err(ss()));
    assert_eq!(flat.regs.general[Regs::RSP], 0xfffe);
}

#[test]
fn a_pop_to_memory_counts_with_the_stack_pointer_after_it() {
    let mut flat = Flat::long(0x1000, 0x1000);
    flat.regs.general[Regs::RSP] = 0x1100;
    flat.memory[0x100] = 0x77;
    // POP QWORD [RSP+8]
    assert_eq!(flat.execute(&[0x8f, 0x44, 0x24, 0x08]), Ok(Done::Retired));
    assert_eq!(flat.memory[0x110], 0x77);
    assert_eq!(flat.regs.general[Regs::RSP], 0x1108);
    // PUSH QWORD [RSP+8]: the old one.
    flat.regs.general[Regs::RSP] = 0x1108;
    assert_eq!(flat.execute(&[0xff, 0x74, 0x24, 0x08]), Ok(Done::Retired));
    assert_eq!(flat.memory[0x100], 0x77);
}

#[test]
fn a_branch_that_leads_out_of_the_code_is_refused_before_anything_moves() {
    let mut flat = Flat::long(0x1000, 0x1000);
    flat.regs.general[Regs::RSP] = 0x1800;
    flat.regs.general[Regs::RBX] = 0x1100;
    flat.memory[0x100..0x108].copy_from_slice(&0x8000_0000_0000_u64.to_le_bytes());
    let before = flat.clone();
    for bytes in [[0xff, 0x13], [0xff, 0x23]] {
        assert_eq!(flat.execute(&bytes), Err(gp()));
        assert_eq!((flat.regs, &flat.memory), (before.regs, &before.memory));
    }
    let mut flat = Flat::protected(0x1000, 0x1000);
    flat.segment_mut(SegmentName::Cs).limit = 0xfff;
    flat.regs.general[Regs::RBX] = 0x1100;
    flat.memory[0x100..0x104].copy_from_slice(&0x1000_u32.to_le_bytes());
    assert_eq!(flat.execute(&[0xff, 0x23]), Err(gp()));
    flat.memory[0x100..0x104].copy_from_slice(&0xfff_u32.to_le_bytes());
    assert_eq!(flat.execute(&[0xff, 0x23]), Ok(Done::Retired));
    assert_eq!(flat.regs.rip, 0xfff);
}
