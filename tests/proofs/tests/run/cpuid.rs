//! CPUID: what is offered, and what the guest sees.
use std::collections::BTreeSet;

use waterbear_core::Error;
use waterbear_core::exit::Exit;
use waterbear_core::regs::Regs;
use waterbear_core::run::cpuid::{CpuidEntry, MAX_ENTRIES};
use waterbear_core::vendor::Control;

use crate::support::{Bench, amd, intel, table};

fn ask(bench: &mut Bench, function: u32, index: u32) -> [u32; 4] {
    let regs = &mut bench.guest().regs;
    regs.general[Regs::RAX] = 0xffff_ffff_0000_0000 | u64::from(function);
    regs.general[Regs::RCX] = index.into();
    bench.exit(Exit::Cpuid);
    bench.run_to_halt();
    let general = bench.guest().regs.general;
    [Regs::RAX, Regs::RBX, Regs::RCX, Regs::RDX].map(|register| {
        let value = general[register];
        assert_eq!(value >> 32, 0, "the upper half is cleared");
        value as u32
    })
}

fn entry(function: u32, index: u32, significant: bool, answer: u32) -> CpuidEntry {
    CpuidEntry {
        function,
        index,
        significant,
        answer: [answer; 4],
    }
}

#[test]
fn what_is_not_supported_is_not_offered() {
    let mut bench = Bench::new();
    let [_, _, c, d] = ask(&mut bench, 1, 0);
    for (bit, what) in [
        (3, "MONITOR"),
        (5, "VMX"),
        (6, "SMX"),
        (21, "x2APIC"),
        (24, "deadline"),
    ] {
        assert_eq!(c >> bit & 1, 0, "{what}");
    }
    assert_eq!(c >> 31, 1, "a hypervisor is there");
    assert_eq!(d >> 21 & 1, 0, "no debug store");
    assert_eq!(d & 1, 1, "an FPU");
    let [_, b, c, d] = ask(&mut bench, 7, 0);
    assert_eq!(
        b & (1 << 4 | 1 << 11 | 1 << 14 | 1 << 25),
        0,
        "TSX, MPX, PT"
    );
    assert_eq!(c & (1 << 3 | 1 << 16), 0, "protection keys, LA57");
    assert_eq!(d & (1 << 26 | 1 << 27 | 1 << 31), 0, "SPEC_CTRL");
    let [_, _, c, _] = ask(&mut bench, 0x8000_0001, 0);
    assert_eq!(c & 1 << 2, 0, "SVM");
    assert_eq!(ask(&mut bench, 0x8000_000a, 0), [0; 4]);
    assert_eq!(ask(&mut bench, 0xa, 0), [0; 4]);
}

#[test]
fn the_signature_is_one_that_guests_know() {
    let mut bench = Bench::new();
    let [a, b, c, d] = ask(&mut bench, 0x4000_0000, 0);
    let name: Vec<u8> = [b, c, d].iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!((a, &name[..]), (0x4000_0001, &b"KVMKVMKVM\0\0\0"[..]));
    assert_eq!(ask(&mut bench, 0x4000_0001, 0), [0; 4]);
}

#[test]
fn the_leaves_that_owners_look_for_are_there_on_every_cpu() {
    for host in [amd, intel] {
        let leaves: BTreeSet<_> = table(host).iter().map(|e| e.function).collect();
        let wanted = [0, 1, 7, 0xa, 0xd]
            .into_iter()
            .chain(0x8000_0000..=0x8000_0008)
            .chain([0x8000_001d, 0x8000_001e]);
        for leaf in wanted {
            assert!(leaves.contains(&leaf), "{leaf:#x}");
        }
        assert!(table(host).len() <= MAX_ENTRIES);
    }
}

#[test]
fn bits_of_leaf_1_follow_other_registers() {
    const OSXSAVE: u32 = 1 << 27;
    const APIC: u32 = 1 << 9;
    let mut bench = Bench::new();
    let [_, _, c, d] = ask(&mut bench, 1, 0);
    assert_eq!((c & OSXSAVE, d & APIC), (0, APIC));
    *bench.guest().control(Control::Cr4) |= 1 << 18;
    bench.cpu.set_msr(&bench.vendor, 0x1b, 0xfee0_0000).unwrap();
    let [_, _, c, d] = ask(&mut bench, 1, 0);
    assert_eq!((c & OSXSAVE, d & APIC), (OSXSAVE, 0));
}

#[test]
fn the_size_of_the_xsave_area_follows_xcr0() {
    let mut bench = Bench::on(intel);
    for (xcr0, standard, compacted) in [
        (1, 576, 576),
        (3, 576, 576),
        (7, 576 + 256, 576 + 256),
        // The last part is aligned to 64 bytes.
        (0xe7, 0x680 + 0x400, 0x340 + 0x80 + 0x200 + 0x400),
    ] {
        bench.guest().switched.xcr0 = xcr0;
        assert_eq!(ask(&mut bench, 0xd, 0)[1], standard, "{xcr0:#x}");
        assert_eq!(ask(&mut bench, 0xd, 1)[1], compacted, "{xcr0:#x}");
    }
    let [low, _, most, _] = ask(&mut bench, 0xd, 0);
    assert_eq!((low, most), (0xe7, 0x680 + 0x400), "no protection keys");
}

#[test]
fn beyond_the_last_leaf_intel_repeats_and_amd_has_zeros() {
    let mut bench = Bench::on(intel);
    let last = ask(&mut bench, 0xd, 2);
    assert_ne!(last, [0; 4]);
    for leaf in [0x20, 0x4000_0100, 0x8000_0030, 0xffff_ffff] {
        assert_eq!(ask(&mut bench, leaf, 2), last, "{leaf:#x}");
    }
    assert_eq!(ask(&mut bench, 3, 0), [0; 4], "inside, but nothing there");
    let mut bench = Bench::on(amd);
    for leaf in [0x20, 0x8000_0030, 0xffff_ffff] {
        assert_eq!(ask(&mut bench, leaf, 2), [0; 4], "{leaf:#x}");
    }
}

#[test]
fn a_leaf_is_found_wherever_it_is_in_the_table() {
    let mut bench = Bench::new();
    let mut entries: Vec<_> = (0..200_u32)
        .rev()
        .map(|n| entry(n, 0, false, n + 1))
        .collect();
    entries.push(entry(0x8000_0005, 0, false, 55));
    entries.push(entry(0x4000_0010, 0, false, 66));
    bench.cpu.set_cpuid(&entries).unwrap();
    for leaf in 2..200 {
        // The bits that follow others are not what is asked here.
        if !matches!(leaf, 7 | 0xd) {
            assert_eq!(ask(&mut bench, leaf, 9), [leaf + 1; 4]);
        }
    }
    assert_eq!(ask(&mut bench, 0x8000_0005, 0), [55; 4]);
    assert_eq!(ask(&mut bench, 0x4000_0010, 0), [66; 4]);
}

#[test]
fn ecx_counts_where_the_entry_says_so_and_the_first_entry_wins() {
    let mut bench = Bench::new();
    let entries = [
        entry(0, 0, false, 0x30),
        entry(0x12, 1, true, 1),
        entry(0x12, 0, true, 2),
        entry(0x12, 0, true, 3),
        entry(0x13, 7, false, 4),
    ];
    bench.cpu.set_cpuid(&entries).unwrap();
    assert_eq!(ask(&mut bench, 0x12, 0), [2; 4]);
    assert_eq!(ask(&mut bench, 0x12, 1), [1; 4]);
    assert_eq!(ask(&mut bench, 0x12, 2), [0; 4]);
    assert_eq!(ask(&mut bench, 0x13, 3), [4; 4]);
}

#[test]
fn a_table_that_is_too_long_is_refused() {
    let mut bench = Bench::new();
    let entries = vec![entry(0, 0, false, 1); MAX_ENTRIES + 1];
    assert_eq!(bench.cpu.set_cpuid(&entries), Err(Error::Invalid));
    bench.cpu.set_cpuid(&entries[1..]).unwrap();
    assert_eq!(bench.cpu.cpuid().entries().len(), MAX_ENTRIES);
}

#[test]
fn a_guest_has_what_its_table_and_its_machine_have() {
    let mut bench = Bench::on(amd);
    let entries = [
        entry(0, 0, false, 0xd),
        entry(1, 0, false, u32::MAX),
        entry(7, 0, true, u32::MAX),
        entry(0xd, 0, true, u32::MAX),
    ];
    bench.cpu.set_cpuid(&entries).unwrap();
    let features = bench.cpu.features();
    assert_eq!(features.xcr0, 7, "as the machine");
    assert!(!features.cr4.contains(waterbear_core::arch::Cr4::PKE));
    assert!(features.efer.bits() == 1, "no long mode: no such leaf");
}
