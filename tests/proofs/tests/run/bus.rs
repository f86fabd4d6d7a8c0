//! Writes to devices that the kernel takes, so that the owner does not hear of them.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use waterbear_core::arch::{Rflags, SegmentName};
use waterbear_core::bus::{Listener, Zone};
use waterbear_core::emulate::Target;
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::memslot::SpaceId;
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::{Gpa, User};
use waterbear_proofs::Scripted;

use crate::support::Bench;

/// Where there is no memory.
const DEVICE: u64 = 0x5_0000;

fn out(port: u16, size: u8) -> Exit {
    Exit::Io(IoExit {
        port,
        size,
        input: false,
        string: false,
        repeat: false,
    })
}

/// Has a bell rung for writes of that length, or any.
fn listen(bench: &Bench, target: Target, length: u8) -> Arc<AtomicU64> {
    let host = &bench.rig.host;
    let count = host.open_bell(5);
    let bell = host.bell(5).unwrap();
    let listener = Listener {
        target,
        length,
        value: None,
        bell,
    };
    bench.rig.vm.bus().listen(listener).unwrap();
    count
}

fn put(bench: &Bench, at: u64, bytes: &[u8]) {
    let space = SpaceId::NORMAL;
    bench.rig.vm.write_guest(space, Gpa(at), bytes).unwrap();
}

#[test]
fn a_bell_is_rung_and_the_guest_runs_on() {
    let mut bench = Bench::new();
    let rung = listen(&bench, Target::Port(0x10), 2);
    bench.exit(out(0x10, 2)).exit(out(0x10, 2));
    bench.run_to_halt();
    assert_eq!(rung.load(SeqCst), 2);
    assert_eq!(bench.guest().regs.rip, 0x1006);
    for (port, size) in [(0x10, 1), (0x10, 4), (0x11, 2)] {
        bench.exit(out(port, size));
        assert!(matches!(bench.run(), Leave::Io { .. }), "{port:#x} {size}");
    }
    bench.run_to_halt();
    assert_eq!(rung.load(SeqCst), 2);
}

#[test]
fn a_port_that_is_read_is_the_owners_although_a_bell_is_there() {
    let mut bench = Bench::new();
    let rung = listen(&bench, Target::Port(0x10), 0);
    bench.exit(Exit::Io(IoExit {
        port: 0x10,
        size: 1,
        input: true,
        string: false,
        repeat: false,
    }));
    assert!(matches!(bench.run(), Leave::Io { input: true, .. }));
    assert_eq!(rung.load(SeqCst), 0);
}

#[test]
fn a_single_step_over_a_bell_traps_behind_it() {
    let mut bench = Bench::new();
    listen(&bench, Target::Port(0x10), 0);
    bench.guest().regs.rflags |= Rflags::TF.bits();
    bench.exit(out(0x10, 1));
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    assert_eq!(bench.run(), Leave::Shutdown);
    assert_eq!(bench.guest().delivered.len(), 1);
    assert_eq!(bench.guest().regs.rip, 0x1002);
}

#[test]
fn a_write_to_memory_that_is_not_there_rings() {
    let mut bench = Bench::new();
    let rung = listen(&bench, Target::Memory(DEVICE + 0x10), 1);
    // MOV [0x10], AL.
    put(&bench, 0x1000, &[0xa2, 0x10, 0x00]);
    bench.guest().segments[SegmentName::Ds as usize].base = DEVICE;
    let gpa = Gpa(DEVICE + 0x10);
    let access = Access {
        write: true,
        ..Access::default()
    };
    bench.then(Scripted::exit(Exit::Fault { gpa, access }, 0));
    bench.run_to_halt();
    assert_eq!(rung.load(SeqCst), 1);
    assert_eq!(bench.guest().regs.rip, 0x1005);
}

/// REP OUTSB of three bytes.
fn string(bench: &mut Bench) {
    put(bench, 0x1000, &[0xf3, 0x6e]);
    put(bench, 0x2000, b"abc");
    let regs = &mut bench.guest().regs;
    regs.general[Regs::RSI] = 0x2000;
    regs.general[Regs::RCX] = 3;
    regs.general[Regs::RDX] = 0x3f8;
    // The CPU leaves the guest for each.
    for _ in 0..3 {
        let exit = Exit::Io(IoExit {
            port: 0x3f8,
            size: 1,
            input: false,
            string: true,
            repeat: true,
        });
        bench.then(Scripted::exit(exit, 0));
    }
}

#[test]
fn a_repeated_string_rings_once_for_each_byte() {
    let mut bench = Bench::new();
    let rung = listen(&bench, Target::Port(0x3f8), 1);
    string(&mut bench);
    bench.run_to_halt();
    assert_eq!(rung.load(SeqCst), 3);
    assert_eq!(bench.guest().regs.general[Regs::RCX], 0);
    assert_eq!(bench.guest().regs.rip, 0x1004);
}

#[test]
fn a_repeated_string_to_a_zone_is_kept_byte_by_byte() {
    let mut bench = Bench::new();
    let zone = Zone {
        start: Target::Port(0x3f0),
        size: 16,
    };
    bench.rig.vm.bus().add_zone(zone).unwrap();
    string(&mut bench);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.rip, 0x1004);
    bench.rig.vm.bus().remove_zones(zone).unwrap();
    string(&mut bench);
    bench.guest().regs.rip = 0x1000;
    assert!(matches!(bench.run(), Leave::Io { count: 3, .. }));
}
