//! Control registers.
use waterbear_core::arch::{Attributes, Event, Exception, SegmentName};
use waterbear_core::exit::{ControlExit, Exit};
use waterbear_core::memslot::SpaceId;
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::vendor::Control;
use waterbear_hal::Gpa;
use waterbear_proofs::Scripted;

use crate::support::{Bench, intel};

const GP: Event = Event::Exception(Exception::general_protection(0));
const PE: u64 = 1;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const PGE: u64 = 1 << 7;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

/// Writes a control register from RBX; whether it was taken.
fn write(bench: &mut Bench, register: u8, value: u64) -> bool {
    bench.guest().regs.general[Regs::RBX] = value;
    let exit = Exit::Control(ControlExit::Write {
        register,
        source: Some(Regs::RBX as u8),
    });
    bench.guest().delivered.clear();
    bench.exit(exit).exit(Exit::Shutdown);
    assert_eq!(bench.run(), Leave::Shutdown);
    match bench.guest().delivered[..] {
        [] => true,
        [Event::Exception(e)] => {
            assert_eq!(e.vector, Exception::GP);
            false
        }
        ref other => panic!("{other:?}"),
    }
}

fn control(bench: &mut Bench, name: Control) -> u64 {
    *bench.guest().control(name)
}

/// A guest in protected mode without paging.
fn protected() -> Bench {
    let mut bench = Bench::new();
    *bench.guest().control(Control::Cr0) = 0x11;
    bench
}

#[test]
fn cr0_refuses_what_does_not_go_together() {
    let mut bench = Bench::long();
    for (value, taken) in [
        (PG | PE, true),
        (PG, false),
        (PG | PE | 1 << 29, false),
        (PG | PE | 1 << 29 | 1 << 30, true),
        (PG | PE | 1 << 32, false),
        (PG | PE | 1 << 63, false),
        // Reserved bits of the lower half are ignored.
        (PG | PE | 1 << 10, true),
    ] {
        assert_eq!(write(&mut bench, 0, value), taken, "{value:#x}");
    }
    let now = control(&mut bench, Control::Cr0);
    assert_eq!(now, PG | PE | 1 << 4, "ET is always 1");
}

#[test]
fn paging_makes_long_mode_active_and_its_end_ends_it() {
    let mut bench = protected();
    *bench.guest().control(Control::Efer) = LME;
    assert!(!write(&mut bench, 0, PG | PE), "without PAE");
    assert!(write(&mut bench, 4, PAE));
    let cs = SegmentName::Cs as usize;
    bench.guest().segments[cs].attributes = Attributes::from_bits_retain(0xa9b);
    assert!(!write(&mut bench, 0, PG | PE), "with CS.L");
    bench.guest().segments[cs].attributes = Attributes::from_bits_retain(0xc9b);
    let flushes = bench.guest().flushes;
    assert!(write(&mut bench, 0, PG | PE));
    assert_eq!(control(&mut bench, Control::Efer), LME | LMA);
    assert!(bench.guest().flushes > flushes);
    assert!(!write(&mut bench, 4, 0), "PAE stays");
    bench.guest().segments[cs].attributes = Attributes::from_bits_retain(0xa9b);
    assert!(!write(&mut bench, 0, PE), "not in 64-bit mode");
    bench.guest().segments[cs].attributes = Attributes::from_bits_retain(0xc9b);
    assert!(write(&mut bench, 0, PE));
    assert_eq!(control(&mut bench, Control::Efer), LME);
}

#[test]
fn cr4_takes_what_the_guest_has() {
    let mut bench = Bench::long();
    for bit in [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 16, 18, 20, 21] {
        assert!(write(&mut bench, 4, PAE | 1 << bit), "bit {bit}");
    }
    for bit in [12, 13, 14, 15, 19, 22, 23, 24, 25, 32, 63] {
        assert!(!write(&mut bench, 4, PAE | 1 << bit), "bit {bit}");
    }
    bench.cpu.set_cpuid(&[]).unwrap();
    for bit in [11, 16, 17, 18, 20, 21] {
        assert!(
            !write(&mut bench, 4, PAE | 1 << bit),
            "bit {bit} without CPUID"
        );
    }
}

#[test]
fn process_contexts_need_long_mode_and_begin_with_number_0() {
    const PCIDE: u64 = 1 << 17;
    let mut bench = Bench::on(intel);
    *bench.guest().control(Control::Cr0) = PE | 0x10;
    assert!(!write(&mut bench, 4, PAE | PCIDE), "outside long mode");
    *bench.guest().control(Control::Cr0) = PG | PE | 0x10;
    *bench.guest().control(Control::Efer) = LME | LMA;
    *bench.guest().control(Control::Cr4) = PAE;
    bench.guest().segments[SegmentName::Cs as usize].attributes =
        Attributes::from_bits_retain(0xa9b);
    *bench.guest().control(Control::Cr3) = 0x1001;
    assert!(!write(&mut bench, 4, PAE | PCIDE), "with a context");
    *bench.guest().control(Control::Cr3) = 0x1000;
    assert!(write(&mut bench, 4, PAE | PCIDE));
    assert!(write(&mut bench, 3, 1 << 63 | 0x2005));
    assert_eq!(control(&mut bench, Control::Cr3), 0x2005);
    bench.guest().segments[SegmentName::Cs as usize].attributes =
        Attributes::from_bits_retain(0xc9b);
    assert!(!write(&mut bench, 0, PE), "no end of paging with contexts");
}

#[test]
fn cr3_names_a_physical_address_in_long_mode() {
    let mut bench = Bench::long();
    let flushes = bench.guest().flushes;
    assert!(write(&mut bench, 3, 0xffff_ffff_f018));
    assert!(bench.guest().flushes > flushes);
    assert!(!write(&mut bench, 3, 1 << 48));
    assert!(!write(&mut bench, 3, 1 << 63));
    assert_eq!(control(&mut bench, Control::Cr3), 0xffff_ffff_f018);
}

#[test]
fn page_directory_pointers_are_read_and_checked_in_pae_mode() {
    let mut bench = protected();
    let put = |bench: &Bench, at: u64, entries: [u64; 4]| {
        let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        let space = SpaceId::NORMAL;
        bench.rig.vm.write_guest(space, Gpa(at), &bytes).unwrap();
    };
    put(&bench, 0x2020, [0x3001, 0, 0x4019, 0xffff_ffff_ffff_fffe]);
    put(&bench, 0x2040, [0x3001, 0x3003, 0, 0]);
    put(&bench, 0x2060, [1 << 48 | 1, 0, 0, 0]);
    *bench.guest().control(Control::Cr3) = 0x2040;
    assert!(write(&mut bench, 4, PAE));
    assert!(!write(&mut bench, 0, PG | PE), "a reserved bit");
    *bench.guest().control(Control::Cr3) = 0x2020;
    assert!(write(&mut bench, 0, PG | PE));
    let loaded = Some([0x3001, 0, 0x4019, 0xffff_ffff_ffff_fffe]);
    assert_eq!(bench.guest().page_directories, loaded);
    assert!(!write(&mut bench, 3, 0x2060), "an address that is too wide");
    assert!(!write(&mut bench, 3, 0x10_0000), "no memory there");
    assert_eq!(control(&mut bench, Control::Cr3), 0x2020);
    put(&bench, 0x2020, [0; 4]);
    assert!(write(&mut bench, 4, PAE | PGE));
    assert_eq!(bench.guest().page_directories, Some([0; 4]), "read again");
}

#[test]
fn the_task_priority_is_kept_and_its_fall_is_the_owners_business() {
    let mut bench = Bench::long();
    assert!(write(&mut bench, 8, 9));
    assert!(!write(&mut bench, 8, 16));
    assert_eq!(bench.cpu.cr8(), 9);
    bench.guest().regs.general[Regs::RBX] = 8;
    bench.exit(Exit::Control(ControlExit::Write {
        register: 8,
        source: Some(Regs::RBX as u8),
    }));
    let rip = bench.guest().regs.rip;
    assert_eq!(bench.run(), Leave::TaskPriority);
    assert_eq!((bench.cpu.cr8(), bench.guest().regs.rip), (8, rip + 2));
}

#[test]
fn lmsw_sets_pe_and_does_not_clear_it() {
    let mut bench = Bench::new();
    let lmsw = |bits| Exit::Control(ControlExit::LoadStatus(Some(bits)));
    bench.did(lmsw(0xffff));
    assert_eq!(control(&mut bench, Control::Cr0), 0x6000_001f);
    bench.did(lmsw(0));
    assert_eq!(control(&mut bench, Control::Cr0), 0x6000_0011);
}

#[test]
fn clts_clears_ts() {
    let mut bench = Bench::long();
    *bench.guest().control(Control::Cr0) |= 8;
    bench.did(Exit::Control(ControlExit::ClearTs));
    assert_eq!(control(&mut bench, Control::Cr0) & 8, 0);
}

#[test]
fn reads_are_as_wide_as_the_mode() {
    for (mut bench, wide) in [(Bench::long(), true), (protected(), false)] {
        *bench.guest().control(Control::Cr3) = 0x1_2345_6000;
        bench.did(Exit::Control(ControlExit::Read {
            register: 3,
            target: Some(12),
        }));
        let expected = if wide { 0x1_2345_6000 } else { 0x2345_6000 };
        assert_eq!(bench.guest().regs.general[12], expected);
    }
}

#[test]
fn operands_that_the_cpu_does_not_name_are_decoded() {
    let mut bench = Bench::long();
    // MOV CR8, R9; MOV R10, CR0; SMSW EBX; LMSW CX.
    bench.guest().regs.general[9] = 5;
    let read = |register| ControlExit::Read {
        register,
        target: None,
    };
    let write = |register| ControlExit::Write {
        register,
        source: None,
    };
    for (code, exit) in [
        (&[0x45, 0x0f, 0x22, 0xc1][..], write(8)),
        (&[0x41, 0x0f, 0x20, 0xc2], read(0)),
        (&[0x0f, 0x01, 0xe3], read(0)),
        (&[0x0f, 0x01, 0xf1], ControlExit::LoadStatus(None)),
    ] {
        bench.guest().fetched = code.to_vec();
        bench.guest().regs.general[Regs::RCX] = 0xf;
        let rip = bench.guest().regs.rip;
        bench.then(Scripted::exit(Exit::Control(exit), 0));
        bench.exit(Exit::Shutdown);
        assert_eq!(bench.run(), Leave::Shutdown);
        assert_eq!(bench.guest().regs.rip, rip + code.len() as u64);
    }
    assert_eq!(bench.cpu.cr8(), 5);
    assert_eq!(bench.guest().regs.general[10], 0x8000_0011);
    assert_eq!(bench.guest().regs.general[Regs::RBX], 0x8000_0011);
    assert_eq!(control(&mut bench, Control::Cr0), 0x8000_001f);
}

#[test]
fn users_do_not_move_control_registers() {
    let mut bench = Bench::long();
    bench.set_cpl(3);
    assert!(!write(&mut bench, 0, PG | PE));
    bench.guest().delivered.clear();
    bench.exit(Exit::Control(ControlExit::ClearTs));
    bench.exit(Exit::Shutdown);
    bench.run();
    assert_eq!(bench.guest().delivered, [GP]);
}

#[test]
fn an_owner_sets_what_a_cpu_can_have() {
    let mut bench = Bench::new();
    let Bench { rig, vendor, cpu } = &mut bench;
    let mut set = |cr0, cr3, cr4, efer| {
        cpu.set_controls(&rig.vm, vendor, [cr0, cr3, cr4, efer])
            .is_ok()
    };
    assert!(set(PG | PE, 0x1000, PAE, LME | LMA));
    assert!(!set(PG | PE, 0x1000, PAE, LME), "LMA is missing");
    assert!(!set(PG | PE, 0x1000, 0, LME | LMA), "PAE is missing");
    assert!(!set(PE, 0, PAE, LME | LMA), "no paging");
    assert!(!set(PG, 0, 0, 0), "PE is missing");
    assert!(!set(PE | 1 << 29, 0, 0, 0), "NW without CD");
    assert!(!set(PG | PE, 1 << 52, PAE, LME | LMA), "too wide");
    assert!(!set(PE, 0, 1 << 13, 0), "VMX");
    assert!(!set(PE, 0, 0, 1 << 12), "SVM");
    assert!(set(0x6000_0010, 0, 0, 0));
}
