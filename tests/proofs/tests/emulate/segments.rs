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

#[test]
fn alignment_is_checked_for_users_who_want_it() {
    let check = |cr0, flags: Rflags, cpl, address| {
        let mut flat = Flat::long(0x1000, 0x1000);
        flat.cr0 |= cr0;
        flat.cpl = cpl;
        flat.regs.rflags |= flags.bits();
        flat.regs.general[Regs::RBX] = address;
        flat.execute(&[0x8b, 0x03])
    };
    let stop = Stop::Exception(Exception::with_error(Exception::AC, 0));
    assert_eq!(check(Cr0::AM, Rflags::AC, 3, 0x1002), Err(stop));
    assert_eq!(check(Cr0::AM, Rflags::AC, 3, 0x1004), Ok(Done::Retired));
    assert_eq!(check(Cr0::AM, Rflags::AC, 0, 0x1002), Ok(Done::Retired));
    assert_eq!(
        check(Cr0::AM, Rflags::empty(), 3, 0x1002),
        Ok(Done::Retired)
    );
    assert_eq!(
        check(Cr0::empty(), Rflags::AC, 3, 0x1002),
        Ok(Done::Retired)
    );
}

#[test]
fn sixteen_bytes_that_must_be_aligned_are() {
    let mut flat = Flat::long(0x1000, 0x1000);
    flat.regs.general[Regs::RBX] = 0x1008;
    // CMPXCHG16B, MOVAPS, MOVDQA and MOVUPS.
    assert_eq!(flat.execute(&[0x48, 0x0f, 0xc7, 0x0b]), Err(gp()));
    assert_eq!(flat.execute(&[0x0f, 0x28, 0x03]), Err(gp()));
    assert_eq!(flat.execute(&[0x66, 0x0f, 0x7f, 0x03]), Err(gp()));
    assert_eq!(flat.execute(&[0x0f, 0x10, 0x03]), Ok(Done::Retired));
}

#[test]
fn a_lock_prefix_stands_before_few_instructions() {
    let legal: [&[u8]; 8] = [
        &[0x01, 0x03],
        &[0x83, 0x23, 0x05],
        &[0xf7, 0x13],
        &[0xff, 0x03],
        &[0x87, 0x03],
        &[0x0f, 0xc1, 0x03],
        &[0x0f, 0xab, 0x03],
        &[0x0f, 0xb1, 0x03],
    ];
    let illegal: [&[u8]; 12] = [
        &[0x89, 0x03],
        &[0x03, 0x03],
        &[0x39, 0x03],
        &[0x83, 0x3b, 0x05],
        &[0x01, 0xc3],
        &[0x85, 0x03],
        &[0xd1, 0x23],
        &[0x0f, 0xa3, 0x03],
        &[0xa5],
        &[0xff, 0x33],
        &[0x0f, 0x94, 0x03],
        &[0x0f, 0x18, 0x0b],
    ];
    let run = |bytes: &[u8]| {
        let mut flat = Flat::long(0x1000, 0x1000);
        flat.regs.general[Regs::RBX] = 0x1100;
        flat.regs.general[Regs::RSI] = 0x1100;
        flat.regs.general[Regs::RDI] = 0x1100;
        flat.regs.general[Regs::RSP] = 0x1100;
        (flat.execute(&[&[0xf0], bytes].concat()), flat.log)
    };
    for bytes in legal {
        let (result, log) = run(bytes);
        assert_eq!(result, Ok(Done::Retired), "{bytes:02x?}");
        assert!(matches!(
            log[..],
            [Call::Read(_, _, Access::Modify), Call::CompareExchange(..)]
        ));
    }
    for bytes in illegal {
        let stop = Stop::Exception(Exception::invalid_opcode());
        assert_eq!(run(bytes), (Err(stop), vec![]), "{bytes:02x?}");
    }
}

#[test]
fn an_atomic_instruction_that_finds_another_value_is_tried_again() {
    let mut flat = Flat::long(0x1000, 0x1000);
    flat.regs.general[Regs::RBX] = 0x1100;
    flat.regs.general[Regs::RAX] = 5;
    flat.disturb = true;
    let before = flat.regs;
    // LOCK XADD [RBX], EAX
    let bytes = [0xf0, 0x0f, 0xc1, 0x03];
    assert_eq!(flat.execute(&bytes), Err(Stop::Retry));
    assert_eq!(flat.regs, before);
    assert_eq!(flat.execute(&bytes), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RAX], 0xff);
    assert_eq!(flat.memory[0x100..0x102], [0x04, 0x01]);
}

#[test]
fn ports_are_for_those_whom_the_task_state_segment_lets() {
    let machine = |cpl, bitmap: [u8; 3]| {
        let mut flat = Flat::protected(0x1000, 0x1000);
        flat.cpl = cpl;
        let kind = Attributes::from_bits_retain(0xb);
        let attributes = Attributes::PRESENT | kind;
        *flat.segment_mut(SegmentName::Tr) = Segment {
            selector: 0x20,
            attributes,
            limit: 0x68 + 18,
            base: 0x1100,
        };
        flat.memory[0x166] = 0x68;
        flat.memory[0x178..0x17b].copy_from_slice(&bitmap);
        flat.regs.general[Regs::RDX] = 0x87;
        flat
    };
    // IN EAX, DX of ports 87h to 8Ah.
    let run = |mut flat: Flat| flat.execute(&[0xed]);
    assert_eq!(run(machine(0, [0xff; 3])), Ok(Done::Retired));
    assert_eq!(run(machine(3, [0; 3])), Ok(Done::Retired));
    assert_eq!(run(machine(3, [0x7f, 0xf8, 0xff])), Ok(Done::Retired));
    assert_eq!(run(machine(3, [0x80, 0, 0])), Err(gp()));
    assert_eq!(run(machine(3, [0, 4, 0])), Err(gp()));
    let mut flat = machine(3, [0xff; 3]);
    flat.regs.rflags |= Rflags::IOPL.bits();
    assert_eq!(run(flat), Ok(Done::Retired));
    // The bitmap ends before the port.
    let mut flat = machine(3, [0; 3]);
    flat.segment_mut(SegmentName::Tr).limit = 0x68 + 16;
    assert_eq!(run(flat), Err(gp()));
    // A 16-bit segment has none.
    let mut flat = machine(3, [0; 3]);
    flat.segment_mut(SegmentName::Tr).attributes =
        Attributes::PRESENT | Attributes::from_bits_retain(3);
    assert_eq!(run(flat), Err(gp()));
}

#[test]
fn what_is_not_emulated_says_so_and_changes_nothing() {
    let cases: [&[u8]; 8] = [
        &[0x8e, 0x1b],             // MOV DS, [RBX]
        &[0xff, 0x1b],             // CALL FAR [RBX]
        &[0x0f, 0xae, 0x03],       // FXSAVE [RBX]
        &[0xdd, 0x03],             // FLD QWORD [RBX]
        &[0x0f, 0x01, 0x13],       // LGDT [RBX]
        &[0xc5, 0xfa, 0x6f, 0x03], // VMOVDQU XMM0, [RBX]
        &[0x0f, 0x3a, 0x0f, 0x03, 0x01],
        &[0x0f, 0xa2],
    ];
    for bytes in cases {
        let mut flat = Flat::long(0x1000, 0x1000);
        flat.regs.general[Regs::RBX] = 0x1100;
        let before = flat.regs;
        assert_eq!(flat.execute(bytes), Err(Stop::Unsupported), "{bytes:02x?}");
        assert_eq!((flat.regs, flat.log), (before, vec![]));
    }
}
