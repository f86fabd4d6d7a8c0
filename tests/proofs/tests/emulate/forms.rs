//! What instructions do, compared with this CPU.
use waterbear_core::arch::Exception;
use waterbear_core::emulate::Stop;
use waterbear_core::regs::Regs;
use waterbear_proofs::random::Random;

use crate::flat::{Call, Flat};
use crate::form::{AF, BYTE, CF, Case, Form, Immediate, Kind, OF, PF, SF, STATUS, WORDS, ZF, case};
use crate::host::Host;
use crate::oracle::{SEED, TIMES, compare, run};

/// What most instructions on bits leave undefined.
const MOST: u64 = OF | SF | AF | PF;

#[test]
fn moves_do_what_this_cpu_does() {
    run(&[
        Form::new(&[0x88], BYTE),
        Form::new(&[0x89], WORDS),
        Form::new(&[0x8a], BYTE),
        Form::new(&[0x8b], WORDS),
        Form::new(&[0xc6], BYTE)
            .extension(0)
            .immediate(Immediate::Byte),
        Form::new(&[0xc7], WORDS)
            .extension(0)
            .immediate(Immediate::Operand),
        Form::new(&[0x0f, 0xb6], WORDS),
        Form::new(&[0x0f, 0xb7], WORDS),
        Form::new(&[0x0f, 0xbe], WORDS),
        Form::new(&[0x0f, 0xbf], WORDS),
        Form::new(&[0x63], WORDS),
        Form::new(&[0x8d], WORDS).memory_only(),
        Form::new(&[0x0f, 0xc3], &[4, 8]).memory_only(),
        Form::new(&[0x0f, 0x38, 0xf0], WORDS).memory_only(),
        Form::new(&[0x0f, 0x38, 0xf1], WORDS).memory_only(),
        Form::new(&[0x86], BYTE),
        Form::new(&[0x87], WORDS),
        Form::new(&[0x0f, 0x18], &[4]).memory_only().extension(1),
        Form::new(&[0x0f, 0x1f], WORDS).extension(0),
        Form::new(&[0x0f, 0xae], &[4]).memory_only().extension(7),
    ]);
}

#[test]
fn arithmetic_does_what_this_cpu_does() {
    for number in 0..8 {
        let logic = matches!(number, 1 | 4 | 6);
        let undefined = if logic { AF } else { 0 };
        let first: [&'static [u8]; 8] = [
            &[0x00],
            &[0x08],
            &[0x10],
            &[0x18],
            &[0x20],
            &[0x28],
            &[0x30],
            &[0x38],
        ];
        let second: [&'static [u8]; 8] = [
            &[0x01],
            &[0x09],
            &[0x11],
            &[0x19],
            &[0x21],
            &[0x29],
            &[0x31],
            &[0x39],
        ];
        let third: [&'static [u8]; 8] = [
            &[0x02],
            &[0x0a],
            &[0x12],
            &[0x1a],
            &[0x22],
            &[0x2a],
            &[0x32],
            &[0x3a],
        ];
        let fourth: [&'static [u8]; 8] = [
            &[0x03],
            &[0x0b],
            &[0x13],
            &[0x1b],
            &[0x23],
            &[0x2b],
            &[0x33],
            &[0x3b],
        ];
        let to_rm = |opcode, sizes| {
            let form = Form::new(opcode, sizes).undefined(undefined);
            if number == 7 { form } else { form.lock() }
        };
        let n = usize::from(number);
        run(&[
            to_rm(first[n], BYTE),
            to_rm(second[n], WORDS),
            Form::new(third[n], BYTE).undefined(undefined),
            Form::new(fourth[n], WORDS).undefined(undefined),
            to_rm(&[0x80], BYTE)
                .extension(number)
                .immediate(Immediate::Byte),
            to_rm(&[0x81], WORDS)
                .extension(number)
                .immediate(Immediate::Operand),
            to_rm(&[0x83], WORDS)
                .extension(number)
                .immediate(Immediate::Byte),
        ]);
    }
}

#[test]
fn operations_on_one_operand_do_what_this_cpu_does() {
    run(&[
        Form::new(&[0x84], BYTE).undefined(AF),
        Form::new(&[0x85], WORDS).undefined(AF),
        Form::new(&[0xf6], BYTE)
            .extension(0)
            .immediate(Immediate::Byte)
            .undefined(AF),
        Form::new(&[0xf7], WORDS)
            .extension(0)
            .immediate(Immediate::Operand)
            .undefined(AF),
        Form::new(&[0xf6], BYTE).extension(2).lock(),
        Form::new(&[0xf7], WORDS).extension(2).lock(),
        Form::new(&[0xf6], BYTE).extension(3).lock(),
        Form::new(&[0xf7], WORDS).extension(3).lock(),
        Form::new(&[0xfe], BYTE).extension(0).lock(),
        Form::new(&[0xff], WORDS).extension(0).lock(),
        Form::new(&[0xfe], BYTE).extension(1).lock(),
        Form::new(&[0xff], WORDS).extension(1).lock(),
    ]);
}

#[test]
fn exchanges_do_what_this_cpu_does() {
    let pair = Form::new(&[0x0f, 0xc7], &[4, 8])
        .extension(1)
        .memory_only()
        .lock();
    run(&[
        Form::new(&[0x0f, 0xb0], BYTE).kind(Kind::Compare).lock(),
        Form::new(&[0x0f, 0xb1], WORDS).kind(Kind::Compare).lock(),
        Form::new(&[0x0f, 0xc0], BYTE).lock(),
        Form::new(&[0x0f, 0xc1], WORDS).lock(),
        pair.kind(Kind::Compare),
    ]);
}

#[test]
fn bits_are_as_on_this_cpu() {
    let by_register: [&'static [u8]; 4] =
        [&[0x0f, 0xa3], &[0x0f, 0xab], &[0x0f, 0xb3], &[0x0f, 0xbb]];
    for (number, opcode) in by_register.into_iter().enumerate() {
        let lock = |form: Form| if number == 0 { form } else { form.lock() };
        let register = Form::new(opcode, WORDS)
            .kind(Kind::BitNumber)
            .undefined(MOST);
        let immediate = Form::new(&[0x0f, 0xba], WORDS)
            .extension(4 + number as u8)
            .immediate(Immediate::Byte)
            .undefined(MOST);
        run(&[lock(register), lock(immediate)]);
    }
    run(&[
        Form::new(&[0x0f, 0xbc], WORDS)
            .kind(Kind::Sparse)
            .undefined(MOST | CF),
        Form::new(&[0x0f, 0xbd], WORDS)
            .kind(Kind::Sparse)
            .undefined(MOST | CF),
    ]);
    if std::is_x86_feature_detected!("bmi1") {
        run(&[Form::new(&[0x0f, 0xbc], WORDS)
            .prefix(0xf3)
            .kind(Kind::Sparse)
            .undefined(MOST)]);
    }
    if std::is_x86_feature_detected!("lzcnt") {
        run(&[Form::new(&[0x0f, 0xbd], WORDS)
            .prefix(0xf3)
            .kind(Kind::Sparse)
            .undefined(MOST)]);
    }
    if std::is_x86_feature_detected!("popcnt") {
        run(&[Form::new(&[0x0f, 0xb8], WORDS)
            .prefix(0xf3)
            .kind(Kind::Sparse)]);
    }
}

#[test]
fn shifts_and_rotations_do_what_this_cpu_does() {
    for number in 0..8 {
        let shift = |opcode, sizes| Form::new(opcode, sizes).extension(number).kind(Kind::Shift);
        run(&[
            shift(&[0xc0], BYTE).immediate(Immediate::Byte),
            shift(&[0xc1], WORDS).immediate(Immediate::Byte),
            shift(&[0xd0], BYTE),
            shift(&[0xd1], WORDS),
            shift(&[0xd2], BYTE),
            shift(&[0xd3], WORDS),
        ]);
    }
    let double = |opcode, sizes| Form::new(opcode, sizes).kind(Kind::ShiftDouble);
    run(&[
        double(&[0x0f, 0xa4], WORDS).immediate(Immediate::Byte),
        double(&[0x0f, 0xa5], WORDS),
        double(&[0x0f, 0xac], WORDS).immediate(Immediate::Byte),
        double(&[0x0f, 0xad], WORDS),
    ]);
}

#[test]
fn products_and_quotients_are_those_of_this_cpu() {
    let undefined = SF | ZF | AF | PF;
    run(&[
        Form::new(&[0xf6], BYTE).extension(4).undefined(undefined),
        Form::new(&[0xf7], WORDS).extension(4).undefined(undefined),
        Form::new(&[0xf6], BYTE).extension(5).undefined(undefined),
        Form::new(&[0xf7], WORDS).extension(5).undefined(undefined),
        Form::new(&[0x0f, 0xaf], WORDS).undefined(undefined),
        Form::new(&[0x69], WORDS)
            .immediate(Immediate::Operand)
            .undefined(undefined),
        Form::new(&[0x6b], WORDS)
            .immediate(Immediate::Byte)
            .undefined(undefined),
        Form::new(&[0xf6], BYTE)
            .extension(6)
            .kind(Kind::Divide)
            .undefined(STATUS),
        Form::new(&[0xf7], WORDS)
            .extension(6)
            .kind(Kind::Divide)
            .undefined(STATUS),
        Form::new(&[0xf6], BYTE)
            .extension(7)
            .kind(Kind::Divide)
            .undefined(STATUS),
        Form::new(&[0xf7], WORDS)
            .extension(7)
            .kind(Kind::Divide)
            .undefined(STATUS),
    ]);
}

#[test]
fn a_quotient_that_does_not_fit_is_a_divide_error_and_only_then() {
    let host = Host::new();
    let mut random = Random::new(SEED);
    for signed in [false, true] {
        let form = Form::new(&[0xf7], &[4])
            .extension(6 + u8::from(signed))
            .memory_only()
            .kind(Kind::Divide)
            .undefined(STATUS);
        for _ in 0..TIMES {
            let case = case(&form, &mut random, host.data(), host.rip()).unwrap();
            let mut ours = Flat::long(host.data(), 0);
            (ours.memory, ours.regs) = (case.memory.clone(), case.regs);
            let result = ours.execute(&case.bytes);
            let Some(Call::Read(at, 4, _)) = ours.log.first() else {
                panic!()
            };
            let at = (at - host.data()) as usize;
            let by = u32::from_le_bytes(case.memory[at..at + 4].try_into().unwrap());
            let [ax, _, dx, ..] = case.regs.general;
            let dividend = dx << 32 | ax & 0xffff_ffff;
            let fits = if signed {
                let quotient = i128::from(dividend as i64).checked_div(i128::from(by as i32));
                quotient.is_some_and(|q| i32::try_from(q).is_ok())
            } else {
                let quotient = dividend.checked_div(u64::from(by));
                quotient.is_some_and(|q| u32::try_from(q).is_ok())
            };
            assert_eq!(result.is_ok(), fits, "{dividend:#x} {by:#x}: {result:?}");
            if !fits {
                let error = Stop::Exception(Exception::plain(Exception::DE));
                assert_eq!((result, ours.regs), (Err(error), case.regs));
            }
        }
    }
}

#[test]
fn conditions_hold_when_they_hold_on_this_cpu() {
    const SET: [[u8; 2]; 16] = numbered(0x90);
    const MOVE: [[u8; 2]; 16] = numbered(0x40);
    for number in 0..16 {
        run(&[
            Form::new(&SET[number], BYTE),
            Form::new(&MOVE[number], WORDS),
        ]);
    }
}

const fn numbered(first: u8) -> [[u8; 2]; 16] {
    let mut all = [[0x0f, 0]; 16];
    let mut number = 0;
    while number < 16 {
        all[number][1] = first + number as u8;
        number += 1;
    }
    all
}

#[test]
fn the_stack_and_branches_are_as_on_this_cpu() {
    run(&[
        Form::new(&[0xff], &[2, 4]).extension(6),
        Form::new(&[0x8f], &[2, 4]).extension(0),
        Form::new(&[0xff], &[8]).extension(2).kind(Kind::Branch),
        Form::new(&[0xff], &[8]).extension(4).kind(Kind::Branch),
    ]);
    let host = Host::new();
    let mut random = Random::new(SEED);
    for register in (0..16_u8).filter(|&r| r != Regs::RSP as u8) {
        for bytes in [
            vec![0x40 | register >> 3, 0x50 | register & 7],
            vec![0x40 | register >> 3, 0x58 | register & 7],
            vec![0x66, 0x40 | register >> 3, 0x50 | register & 7],
            vec![0x66, 0x40 | register >> 3, 0x58 | register & 7],
            vec![0x54],
            vec![0x6a, 0x80 | register],
            vec![0x68, register, 0, 0, 0x80],
            vec![0xe8, 0, 0, 0, 0],
            vec![0x48 | register >> 3, 0x90 | register & 7],
            vec![0xd7],
        ] {
            let (mut regs, memory) = crate::form::state(&mut random, host.data());
            if bytes == [0xd7] {
                regs.general[Regs::RBX] = host.data() + random.below(1000);
            }
            assert!(compare(
                &host,
                &Case {
                    bytes,
                    regs,
                    memory,
                    undefined: 0
                }
            ));
        }
    }
}

#[test]
fn vector_moves_do_what_this_cpu_does() {
    const ONE: &[u8] = &[4];
    let mut forms = Vec::new();
    for opcode in [&[0x0f_u8, 0x10], &[0x0f, 0x11]] {
        forms.push(Form::new(opcode, ONE).memory_only());
        for prefix in [0x66, 0xf2, 0xf3] {
            forms.push(Form::new(opcode, ONE).prefix(prefix).memory_only());
        }
    }
    for opcode in [
        &[0x0f_u8, 0x12],
        &[0x0f, 0x13],
        &[0x0f, 0x16],
        &[0x0f, 0x17],
    ] {
        forms.push(Form::new(opcode, ONE).memory_only());
        forms.push(Form::new(opcode, ONE).prefix(0x66).memory_only());
    }
    for opcode in [&[0x0f_u8, 0x6f], &[0x0f, 0x7f], &[0x0f, 0x7e]] {
        forms.push(Form::new(opcode, ONE).prefix(0xf3).memory_only());
    }
    for opcode in [&[0x0f_u8, 0x6e], &[0x0f, 0x7e]] {
        forms.push(Form::new(opcode, &[4, 8]).prefix(0x66).memory_only());
    }
    forms.push(Form::new(&[0x0f, 0xd6], ONE).prefix(0x66).memory_only());
    run(&forms);
}
