//! Debug registers and XCR0.
use waterbear_core::arch::{Event, Exception};
use waterbear_core::exit::{DebugExit, Exit};
use waterbear_core::regs::Regs;
use waterbear_core::vendor::Control;

use crate::support::{Bench, intel};

fn access(register: u8, read: bool) -> Exit {
    Exit::Debug(DebugExit {
        register,
        read,
        general: Some(Regs::RBX as u8),
    })
}

/// The vector that a write raises.
fn write(bench: &mut Bench, register: u8, value: u64) -> Option<u8> {
    bench.guest().regs.general[Regs::RBX] = value;
    raised(bench, access(register, false))
}

fn raised(bench: &mut Bench, exit: Exit) -> Option<u8> {
    match bench.did(exit)[..] {
        [] => None,
        [Event::Exception(e)] => Some(e.vector),
        ref other => panic!("{other:?}"),
    }
}

fn read(bench: &mut Bench, register: u8) -> u64 {
    assert_eq!(raised(bench, access(register, true)), None);
    bench.guest().regs.general[Regs::RBX]
}

#[test]
fn bits_that_do_not_change_stay() {
    let mut bench = Bench::long();
    assert_eq!(write(&mut bench, 6, 0), None);
    assert_eq!(read(&mut bench, 6), 0xffff_0ff0);
    assert_eq!(write(&mut bench, 6, 0xffff_ffff), None);
    assert_eq!(read(&mut bench, 6), 0xffff_efff);
    assert_eq!(write(&mut bench, 7, 0), None);
    assert_eq!(read(&mut bench, 7), 0x400);
    assert_eq!(write(&mut bench, 7, 0xffff_dfff), None);
    assert_eq!(read(&mut bench, 7), 0xffff_07ff);
    for bad in [1 << 32, 1 << 63] {
        assert_eq!(write(&mut bench, 6, bad), Some(Exception::GP));
        assert_eq!(write(&mut bench, 7, bad), Some(Exception::GP));
    }
    assert_eq!(write(&mut bench, 2, u64::MAX), None);
    assert_eq!(read(&mut bench, 2), u64::MAX);
}

#[test]
fn outside_64_bit_mode_32_bits_move() {
    let mut bench = Bench::new();
    assert_eq!(write(&mut bench, 7, 0xffff_ffff_0000_0001), None);
    assert_eq!(bench.guest().switched.dr7, 0x401);
    bench.guest().switched.breakpoints[0] = u64::MAX;
    assert_eq!(read(&mut bench, 0), 0xffff_ffff);
}

#[test]
fn two_numbers_are_aliases_unless_debug_extensions_are_on() {
    let mut bench = Bench::new();
    assert_eq!(write(&mut bench, 5, 0x455), None);
    assert_eq!(read(&mut bench, 7), 0x455);
    assert_eq!(read(&mut bench, 4), 0xffff_0ff0);
    *bench.guest().control(Control::Cr4) = 8;
    for register in [4, 5] {
        assert_eq!(write(&mut bench, register, 0), Some(Exception::UD));
    }
}

#[test]
fn general_detect_traps_every_access_and_lets_the_handler_in() {
    let mut bench = Bench::new();
    bench.guest().switched.dr7 = 0x400 | 1 << 13;
    let rip = bench.guest().regs.rip;
    assert_eq!(write(&mut bench, 0, 1), Some(Exception::DB));
    let guest = bench.guest();
    assert_eq!(guest.switched.dr6 & 1 << 13, 1 << 13, "BD");
    assert_eq!(guest.switched.dr7, 0x400, "GD is clear in the handler");
    assert_eq!(guest.regs.rip, rip + 2, "only the HLT was done");
    assert_eq!(guest.switched.breakpoints[0], 0);
}

#[test]
fn users_do_not_move_debug_registers() {
    let mut bench = Bench::new();
    bench.set_cpl(3);
    bench.exit(access(0, true)).exit(Exit::Shutdown);
    bench.run();
    let gp = Exception::plain(Exception::GP);
    assert_eq!(bench.guest().delivered, [Event::Exception(gp)]);
}

/// Writes XCR0; the vector that this raises.
fn xsetbv(bench: &mut Bench, ecx: u32, value: u64) -> Option<u8> {
    bench.set_edx_eax_ecx(value, ecx);
    raised(bench, Exit::SetXcr)
}

#[test]
fn xcr0_takes_what_the_guest_has_and_what_goes_together() {
    let mut bench = Bench::on(intel);
    assert_eq!(
        xsetbv(&mut bench, 0, 1),
        Some(Exception::UD),
        "OSXSAVE is clear"
    );
    *bench.guest().control(Control::Cr4) = 1 << 18;
    for good in [1, 3, 7, 0xe7] {
        assert_eq!(xsetbv(&mut bench, 0, good), None, "{good:#x}");
        assert_eq!(bench.guest().switched.xcr0, good);
    }
    let bad = [0, 2, 5, 0xe3, 0x27, 0xe1, 0x207, 1 | 1 << 63, 0x18 | 3];
    for bad in bad {
        assert_eq!(xsetbv(&mut bench, 0, bad), Some(Exception::GP), "{bad:#x}");
    }
    assert_eq!(
        xsetbv(&mut bench, 1, 1),
        Some(Exception::GP),
        "another register"
    );
    assert_eq!(bench.guest().switched.xcr0, 0xe7);
    let vendor = &bench.vendor;
    assert!(bench.cpu.set_xcr0(vendor, 0x207).is_err());
    assert!(bench.cpu.set_xcr0(vendor, 7).is_ok());
}

#[test]
fn an_owner_sets_no_debug_register_to_what_a_cpu_refuses() {
    let mut bench = Bench::new();
    let vendor = &bench.vendor;
    assert!(bench.cpu.set_debug(vendor, 7, 1 << 32).is_err());
    assert!(bench.cpu.set_debug(vendor, 8, 0).is_err());
    bench.cpu.set_debug(vendor, 7, 0).unwrap();
    bench.cpu.set_debug(vendor, 3, 0x1234).unwrap();
    assert_eq!(bench.guest().switched.dr7, 0x400);
    assert_eq!(bench.guest().switched.breakpoints[3], 0x1234);
}
