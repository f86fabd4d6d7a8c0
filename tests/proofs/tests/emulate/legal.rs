//! What is allowed and what is refused: alignment, LOCK, ports, and what is not emulated.
use waterbear_core::arch::{Attributes, Cr0, Exception, Rflags, Segment, SegmentName};
use waterbear_core::emulate::{Access, Done, Stop};
use waterbear_core::regs::Regs;

use crate::flat::{Call, Flat};

fn gp() -> Stop {
    Stop::Exception(Exception::general_protection(0))
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
fn a_selector_is_stored_as_two_bytes_in_memory_and_as_a_whole_register() {
    let mut flat = Flat::long(0x1000, 0x1000);
    flat.segment_mut(SegmentName::Fs).selector = 0x53;
    flat.regs.general[Regs::RBX] = 0x1100;
    flat.regs.general[Regs::RAX] = u64::MAX;
    // MOV [RBX], FS with a wide operand; MOV EAX, FS; MOV of a seventh segment.
    assert_eq!(flat.execute(&[0x48, 0x8c, 0x23]), Ok(Done::Retired));
    assert_eq!(flat.log, [Call::Write(0x1100, vec![0x53, 0])]);
    assert_eq!(flat.execute(&[0x8c, 0xe0]), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RAX], 0x53);
    let stop = Stop::Exception(Exception::invalid_opcode());
    assert_eq!(flat.execute(&[0x8c, 0x33]), Err(stop));
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
