//! Ports: to the owner and back.
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::memslot::SpaceId;
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_hal::Gpa;
use waterbear_proofs::Scripted;

use crate::support::Bench;

fn port(size: u8, input: bool) -> Exit {
    Exit::Io(IoExit {
        port: 0x3f8,
        size,
        input,
        string: false,
        repeat: false,
    })
}

fn io(size: u8, input: bool) -> Leave {
    Leave::Io {
        port: 0x3f8,
        size,
        input,
        count: 1,
    }
}

#[test]
fn what_the_guest_writes_is_what_the_owner_sees() {
    for size in [1, 2, 4] {
        let mut bench = Bench::new();
        bench.guest().regs.general[Regs::RAX] = 0x1122_3344_5566_7788;
        bench.exit(port(size, false));
        assert_eq!(bench.run(), io(size, false));
        let bytes = 0x5566_7788_u32.to_le_bytes();
        assert_eq!(bench.cpu.data(), &bytes[..size.into()]);
        assert_eq!(bench.guest().regs.rip, 0x1000, "not finished yet");
        bench.run_to_halt();
        assert_eq!(bench.guest().regs.rip, 0x1004);
        assert_eq!(bench.guest().regs.general[Regs::RAX], 0x1122_3344_5566_7788);
    }
}

#[test]
fn what_the_owner_answers_is_what_the_guest_reads() {
    for (size, rax) in [
        (1, 0x1122_3344_5566_77a1),
        (2, 0x1122_3344_5566_a2a1),
        (4, 0xa4a3_a2a1),
    ] {
        let mut bench = Bench::new();
        bench.guest().regs.general[Regs::RAX] = 0x1122_3344_5566_7788;
        bench.exit(port(4, false));
        bench.run();
        bench.exit(port(size, true));
        assert_eq!(bench.run(), io(size, true));
        assert!(
            bench.cpu.data().iter().all(|&byte| byte == 0),
            "nothing old"
        );
        for (byte, value) in bench.cpu.data().iter_mut().zip(0xa1..) {
            *byte = value;
        }
        bench.run_to_halt();
        assert_eq!(bench.guest().regs.general[Regs::RAX], rax, "{size}");
        assert_eq!(bench.guest().regs.rip, 0x1006);
    }
}

#[test]
fn an_access_is_finished_before_the_owner_comes_back_at_once() {
    let mut bench = Bench::new();
    bench.exit(port(1, true));
    bench.run();
    bench.cpu.data()[0] = 0x42;
    bench.cpu.come_back_at_once(true);
    assert_eq!(bench.run(), Leave::Interrupted);
    assert_eq!(bench.guest().regs.general[Regs::RAX], 0x42);
    assert_eq!(bench.guest().regs.rip, 0x1002);
    assert_eq!(bench.guest().entries, 1);
    assert_eq!(bench.run(), Leave::Interrupted);
    assert_eq!(bench.guest().regs.rip, 0x1002, "once");
}

/// REP OUTSB and REP INSB in real mode.
fn string(input: bool) -> Bench {
    let mut bench = Bench::new();
    let space = SpaceId::NORMAL;
    let code = [0xf3, if input { 0x6c } else { 0x6e }];
    bench.rig.vm.write_guest(space, Gpa(0x1000), &code).unwrap();
    bench
        .rig
        .vm
        .write_guest(space, Gpa(0x2000), b"abc")
        .unwrap();
    let regs = &mut bench.guest().regs;
    regs.general[Regs::RSI] = 0x2000;
    regs.general[Regs::RDI] = 0x3000;
    regs.general[Regs::RCX] = 3;
    regs.general[Regs::RDX] = 0x3f8;
    bench
}

fn string_exit(input: bool) -> Scripted {
    let exit = Exit::Io(IoExit {
        port: 0x3f8,
        size: 1,
        input,
        string: true,
        repeat: true,
    });
    Scripted::exit(exit, 0)
}

#[test]
fn a_string_goes_out_byte_by_byte() {
    let mut bench = string(false);
    for (left, letter) in [(2, b'a'), (1, b'b'), (0, b'c')] {
        bench.then(string_exit(false));
        assert_eq!(bench.run(), io(1, false));
        assert_eq!(bench.cpu.data(), [letter]);
        assert_eq!(bench.guest().regs.general[Regs::RCX], left);
    }
    bench.run_to_halt();
    let regs = bench.guest().regs;
    assert_eq!((regs.rip, regs.general[Regs::RSI]), (0x1004, 0x2003));
}

#[test]
fn a_string_comes_in_byte_by_byte() {
    let mut bench = string(true);
    for letter in *b"xyz" {
        bench.then(string_exit(true));
        assert_eq!(bench.run(), io(1, true));
        bench.cpu.data()[0] = letter;
    }
    bench.run_to_halt();
    let mut bytes = [0; 4];
    let vm = &bench.rig.vm;
    vm.read_guest(SpaceId::NORMAL, Gpa(0x3000), &mut bytes)
        .unwrap();
    assert_eq!(&bytes, b"xyz\0");
    assert_eq!(bench.guest().regs.general[Regs::RCX], 0);
    assert_eq!(bench.guest().regs.rip, 0x1004);
}
