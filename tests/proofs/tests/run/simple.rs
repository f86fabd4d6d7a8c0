//! Exits with a short answer.
use waterbear_core::arch::{Event, Exception, Rflags, Shadow};
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use waterbear_proofs::Scripted;

use crate::support::Bench;

#[test]
fn hlt_comes_back_behind_the_instruction() {
    let mut bench = Bench::new();
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.rip, 0x1002);
}

#[test]
fn what_changes_nothing_here_is_skipped() {
    for exit in [Exit::Pause, Exit::Invd, Exit::Wbinvd] {
        let mut bench = Bench::new();
        bench.exit(exit);
        bench.run_to_halt();
        assert_eq!(bench.guest().regs.rip, 0x1004, "{exit:?}");
        assert!(bench.guest().delivered.is_empty());
    }
}

#[test]
fn what_is_the_supervisors_is_general_protection_for_users() {
    for exit in [
        Exit::Halt,
        Exit::Invd,
        Exit::Wbinvd,
        Exit::ReadMsr,
        Exit::WriteMsr,
    ] {
        let mut bench = Bench::long();
        bench.set_cpl(3);
        bench.exit(exit);
        bench.then(Scripted::exit(Exit::Shutdown, 0));
        assert_eq!(bench.run(), Leave::Shutdown);
        let gp = Event::Exception(Exception::general_protection(0));
        assert_eq!(bench.guest().delivered, [gp], "{exit:?}");
        assert_eq!(bench.guest().regs.rip, 0x1000);
    }
}

#[test]
fn a_hypercall_is_not_known() {
    let mut bench = Bench::long();
    bench.exit(Exit::Hypercall);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RAX] as i64, -1000);
    bench.set_cpl(3);
    bench.exit(Exit::Hypercall);
    bench.exit(Exit::Shutdown);
    bench.run();
    assert_eq!(bench.guest().regs.general[Regs::RAX] as i64, -1);
    let mut bench = Bench::new();
    bench.exit(Exit::Hypercall);
    bench.run_to_halt();
    assert_eq!(
        bench.guest().regs.general[Regs::RAX],
        u64::from(-1000_i32 as u32)
    );
}

#[test]
fn an_instruction_that_the_guest_has_not_is_an_invalid_opcode() {
    let mut bench = Bench::new();
    let did = bench.did(Exit::Forbidden);
    assert_eq!(did, [Event::Exception(Exception::invalid_opcode())]);
}

#[test]
fn a_breakpoint_returns_behind_the_instruction() {
    let mut bench = Bench::new();
    bench.then(Scripted::exit(
        Exit::Exception(Exception::plain(Exception::BP)),
        1,
    ));
    bench.run_to_halt();
    let event = Event::SoftException {
        vector: Exception::BP,
        length: 1,
    };
    assert_eq!(bench.guest().delivered, [event]);
}

#[test]
fn the_owner_hears_of_a_shutdown_and_of_what_the_hardware_refuses() {
    for (exit, leave) in [
        (Exit::Shutdown, Leave::Shutdown),
        (Exit::Refused(0x8000_0021), Leave::EntryFailed(0x8000_0021)),
        (Exit::Unknown(77), Leave::Unknown(77)),
    ] {
        let mut bench = Bench::new();
        bench.exit(exit);
        assert_eq!(bench.run(), leave);
    }
}

#[test]
fn a_fault_on_memory_is_mapped_and_the_guest_goes_on() {
    let mut bench = Bench::new();
    let access = Access {
        write: true,
        ..Access::default()
    };
    let gpa = Gpa(0x3000);
    bench.exit(Exit::Fault { gpa, access });
    bench.run_to_halt();
    let mapped = bench.rig.vm.mmu().mapped(waterbear_hal::Level::L1);
    assert_eq!(mapped, 1);
    assert_eq!(bench.guest().entries, 2);
}

#[test]
fn a_finished_instruction_ends_its_shadow_and_its_resume_flag() {
    let mut bench = Bench::new();
    bench.cpu.queue_interrupt(0x41).unwrap();
    bench.then(Scripted::exit(Exit::Cpuid, 2).after(|guest| {
        guest.shadow = Shadow::STI | Shadow::NMI;
        guest.regs.rflags |= Rflags::RF.bits() | Rflags::IF.bits();
    }));
    bench.then(Scripted::exit(Exit::Shutdown, 0).after(|guest| {
        assert_eq!(guest.delivered, [Event::Interrupt(0x41)], "at once");
    }));
    bench.run();
    assert_eq!(bench.guest().shadow, Shadow::NMI);
    assert_eq!(bench.guest().regs.rflags & Rflags::RF.bits(), 0);
}

#[test]
fn a_single_step_traps_behind_the_instruction() {
    let mut bench = Bench::new();
    bench.guest().regs.rflags |= Rflags::TF.bits();
    bench.exit(Exit::Cpuid);
    bench.exit(Exit::Shutdown);
    bench.run();
    let guest = bench.guest();
    assert!(matches!(
        guest.delivered[..],
        [Event::Exception(Exception {
            vector: Exception::DB,
            ..
        })]
    ));
    assert_eq!(guest.regs.rip, 0x1002);
    assert_eq!(guest.switched.dr6 & 1 << 14, 1 << 14, "BS");
    assert_eq!(guest.regs.rflags & Rflags::RF.bits(), 0, "a trap");
}

#[test]
fn rip_wraps_where_code_has_32_bits_and_goes_on_where_it_has_64() {
    for (mut bench, rip) in [(Bench::new(), 1), (Bench::long(), 0x1_0000_0001)] {
        bench.guest().regs.rip = 0xffff_ffff;
        bench.run_to_halt();
        assert_eq!(bench.guest().regs.rip, rip);
    }
}

#[test]
fn a_length_that_the_cpu_does_not_tell_is_decoded() {
    let mut bench = Bench::new();
    // An operand-size prefix before CPUID.
    let code = [0x66, 0x0f, 0xa2];
    bench
        .rig
        .vm
        .write_guest(waterbear_core::memslot::SpaceId::NORMAL, Gpa(0x1000), &code)
        .unwrap();
    bench.then(Scripted::exit(Exit::Cpuid, 0));
    bench.exit(Exit::Shutdown);
    bench.run();
    assert_eq!(bench.guest().regs.rip, 0x1003);
    // The CPU's own bytes come first.
    bench.guest().fetched = vec![0xf4, 0x90];
    bench.then(Scripted::exit(Exit::Halt, 0));
    assert_eq!(bench.run(), Leave::Halted);
    assert_eq!(bench.guest().regs.rip, 0x1004);
}

#[test]
fn an_instruction_that_cannot_be_fetched_goes_to_the_owner_or_back() {
    let mut bench = Bench::new();
    bench.guest().regs.rip = 0x10_0000;
    bench.then(Scripted::exit(Exit::Cpuid, 0));
    assert_eq!(bench.run(), Leave::EmulationFailed);
    assert!(bench.cpu.data().is_empty());
    let io = IoExit {
        port: 0x60,
        size: 1,
        input: true,
        string: false,
        repeat: false,
    };
    bench.then(Scripted::exit(Exit::Io(io), 0));
    assert_eq!(bench.run(), Leave::EmulationFailed);
}
