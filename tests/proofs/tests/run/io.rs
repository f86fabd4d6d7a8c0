//! Ports: to the owner and back.
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;

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
