//! Who gets the vCPU back, and when.
use waterbear_core::Error;
use waterbear_core::exit::Exit;
use waterbear_core::memslot::SlotFlags;
use waterbear_core::request::Request;
use waterbear_core::run::Leave;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use waterbear_mock::MapOptions;
use waterbear_proofs::Scripted;

use crate::support::{Bench, PAGES};

#[test]
fn a_signal_keeps_the_guest_from_running() {
    let mut bench = Bench::new();
    bench.rig.host.set_signal(true);
    assert_eq!(bench.run(), Leave::Interrupted);
    assert_eq!(bench.guest().entries, 0);
    bench.rig.host.set_signal(false);
    bench.run_to_halt();
}

#[test]
fn a_signal_that_comes_while_the_guest_runs_is_seen_after_the_exit() {
    let mut bench = Bench::new();
    let host = bench.rig.host.clone();
    bench.then(Scripted::exit(Exit::Cpuid, 2).after(move |_| host.set_signal(true)));
    assert_eq!(bench.run(), Leave::Interrupted);
    assert_eq!(bench.guest().regs.rip, 0x1002, "the exit was handled");
    assert_eq!(bench.guest().entries, 1);
}

#[test]
fn an_exit_for_the_owner_is_not_lost_to_a_signal() {
    let mut bench = Bench::new();
    let host = bench.rig.host.clone();
    bench.then(Scripted::exit(Exit::Halt, 1).after(move |_| host.set_signal(true)));
    assert_eq!(bench.run(), Leave::Halted);
    assert_eq!(bench.run(), Leave::Interrupted);
}

#[test]
fn an_owner_that_comes_back_at_once_does_not_run_the_guest() {
    let mut bench = Bench::new();
    bench.cpu.come_back_at_once(true);
    assert_eq!(bench.run(), Leave::Interrupted);
    assert_eq!(bench.guest().entries, 0);
    bench.cpu.come_back_at_once(false);
    bench.run_to_halt();
}

/// Proves KR-6.
#[test]
fn a_dead_vm_does_not_run_and_keeps_nothing_loaded() {
    let mut bench = Bench::new();
    bench.cpu.queue_nmi();
    let vcpu = bench.rig.vm.vcpus().get(0).unwrap();
    vcpu.make_request(Request::VM_DEAD);
    for _ in 0..2 {
        assert_eq!(bench.try_run(), Err(Error::Dead));
    }
    assert_eq!(bench.guest().entries, 0);
}

#[test]
fn memory_that_the_owner_has_not_is_an_error_and_the_guest_can_go_on() {
    let mut bench = Bench::new();
    let gfn = PAGES + 4;
    let slot = bench.rig.slot(1, gfn, 1, SlotFlags::empty());
    slot.expect("the slot is fine");
    let gpa = Gpa(gfn << 12);
    let access = Access::default();
    bench.exit(Exit::Fault { gpa, access });
    assert_eq!(bench.try_run(), Err(Error::Fault));
    bench.rig.back(gfn, 1, MapOptions::WRITABLE);
    bench.exit(Exit::Fault { gpa, access });
    bench.run_to_halt();
}

#[test]
fn a_request_is_taken_up_before_the_entry() {
    let mut bench = Bench::new();
    bench.run_to_halt();
    let flushes = bench.guest().flushes;
    bench.rig.vm.vcpus().flush_tlbs();
    bench.run_to_halt();
    assert_eq!(bench.guest().flushes, flushes + 1);
}
