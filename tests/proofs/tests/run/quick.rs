//! Exits that are dealt with in guest mode, and those that look like them.
use waterbear_core::arch::{Event, Exception, Rflags};
use waterbear_core::exit::Exit;
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use waterbear_proofs::Scripted;

use crate::support::Bench;

#[test]
fn many_cpuids_are_answered_one_after_the_other() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.then(Scripted::exit(Exit::Cpuid, 2).after(|guest| {
            guest.regs.general[Regs::RAX] = 0;
            guest.regs.rflags |= Rflags::RF.bits();
        }));
    }
    bench.run_to_halt();
    let regs = &bench.guest().regs;
    assert_eq!(regs.general[Regs::RDX] as u32, u32::from_le_bytes(*b"enti"));
    assert_eq!(regs.rip, 0x1000 + 3 * 2 + 2);
    assert_eq!(regs.rflags & Rflags::RF.bits(), 0);
    assert_eq!(bench.guest().entries, 4);
}

#[test]
fn a_cpuid_that_is_single_stepped_traps() {
    let mut bench = Bench::new();
    bench.guest().regs.rflags |= Rflags::TF.bits();
    bench.exit(Exit::Cpuid);
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    assert_eq!(bench.run(), Leave::Shutdown);
    let [Event::Exception(exception)] = bench.guest().delivered[..] else {
        panic!("{:?}", bench.guest().delivered);
    };
    assert_eq!(exception.vector, Exception::DB);
    assert_eq!(bench.guest().regs.rip, 0x1002);
}

#[test]
fn a_cpuid_at_the_end_of_a_32_bit_space_wraps() {
    let mut bench = Bench::new();
    bench.guest().regs.rip = 0xffff_fffe;
    bench.exit(Exit::Cpuid);
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    assert_eq!(bench.run(), Leave::Shutdown);
    assert_eq!(bench.guest().regs.rip, 0);
}

#[test]
fn faults_on_memory_come_and_go_without_the_owner() {
    let mut bench = Bench::new();
    let access = Access {
        absent: true,
        ..Access::default()
    };
    for page in 0..8 {
        let gpa = Gpa(page << 12);
        bench.then(Scripted::exit(Exit::Fault { gpa, access }, 0));
    }
    bench.run_to_halt();
    assert_eq!(bench.rig.vm.mmu().mapped(waterbear_hal::Level::L1), 8);
    assert_eq!(bench.guest().regs.rip, 0x1002);
}
