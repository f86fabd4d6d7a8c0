//! Model-specific registers.
use waterbear_core::arch::{Event, Exception, SegmentName};
use waterbear_core::exit::Exit;
use waterbear_core::run::msr::{MSRS, index};
use waterbear_core::vendor::Msr;

use crate::support::{Bench, amd, intel};

/// Reads as the guest; [`None`] for #GP.
fn read(bench: &mut Bench, msr: u32) -> Option<u64> {
    bench.set_edx_eax_ecx(0xdead_dead_dead_dead, msr);
    match bench.did(Exit::ReadMsr)[..] {
        [] => Some(bench.edx_eax()),
        [Event::Exception(e)] => {
            assert_eq!(e.vector, Exception::GP);
            assert_eq!(bench.edx_eax(), 0xdead_dead_dead_dead);
            None
        }
        ref other => panic!("{other:?}"),
    }
}

/// Writes as the guest; [`None`] for #GP.
fn write(bench: &mut Bench, msr: u32, value: u64) -> Option<()> {
    bench.set_edx_eax_ecx(value, msr);
    bench.did(Exit::WriteMsr).is_empty().then_some(())
}

#[test]
fn a_register_that_is_not_there_is_general_protection() {
    let mut bench = Bench::new();
    for msr in [
        0,
        0x48,
        0x49,
        0x480,
        0x6e0,
        0x802,
        0xda0,
        0xc000_0104,
        0xc001_0131,
    ] {
        assert_eq!(read(&mut bench, msr), None, "{msr:#x}");
        assert_eq!(write(&mut bench, msr, 0), None, "{msr:#x}");
    }
}

#[test]
fn every_register_of_the_list_is_there_for_the_owner() {
    for host in [amd, intel] {
        let mut bench = Bench::on(host);
        bench.cpu.set_up_machine_checks(0x10a).unwrap();
        let vendor = &bench.vendor;
        for &msr in MSRS {
            let vm = &bench.rig.vm;
            if let Some(value) = bench.cpu.clock_msr(vm, msr) {
                let set = bench.cpu.set_clock_msr(vm, msr, value);
                assert!(set.is_some(), "{msr:#x} does not take its own value");
                continue;
            }
            let value = bench.cpu.msr(vendor, msr);
            let value = value.unwrap_or_else(|_| panic!("{msr:#x} is not read"));
            let set = bench.cpu.set_msr(vendor, msr, value);
            set.unwrap_or_else(|_| panic!("{msr:#x} does not take its own value"));
        }
    }
}

#[test]
fn addresses_are_canonical() {
    let mut bench = Bench::new();
    for msr in [
        index::LSTAR,
        index::CSTAR,
        index::SYSENTER_ESP,
        index::SYSENTER_EIP,
        index::KERNEL_GS_BASE,
        index::FS_BASE,
        index::GS_BASE,
    ] {
        for bad in [1 << 47, 0xffff_0000_0000_0000, 1 << 63] {
            assert_eq!(write(&mut bench, msr, bad), None, "{msr:#x} {bad:#x}");
        }
        for good in [0, (1 << 47) - 1, 0xffff_8000_0000_0000] {
            assert_eq!(write(&mut bench, msr, good), Some(()), "{msr:#x} {good:#x}");
            assert_eq!(read(&mut bench, msr), Some(good));
        }
    }
    let fs = bench.guest().segments[SegmentName::Fs as usize];
    assert_eq!((fs.base, fs.limit), (0xffff_8000_0000_0000, 0xffff));
}

#[test]
fn the_page_attributes_are_memory_types() {
    let mut bench = Bench::new();
    assert_eq!(
        write(&mut bench, index::PAT, 0x0007_0406_0007_0406),
        Some(())
    );
    assert_eq!(bench.guest().msrs[&(Msr::Pat as u8)], 0x0007_0406_0007_0406);
    for bad in [2, 3, 8, 0xff] {
        for byte in 0..8 {
            assert_eq!(write(&mut bench, index::PAT, bad << (8 * byte)), None);
        }
    }
}

#[test]
fn efer_takes_what_the_guest_has_and_keeps_lma() {
    let mut bench = Bench::new();
    assert_eq!(write(&mut bench, index::EFER, 0xd01), Some(()));
    assert_eq!(
        read(&mut bench, index::EFER),
        Some(0x901),
        "LMA is not written"
    );
    for bad in [1 << 1, 1 << 12, 1 << 13, 1 << 63] {
        assert_eq!(write(&mut bench, index::EFER, bad), None, "{bad:#x}");
    }
    let mut bench = Bench::long();
    assert_eq!(write(&mut bench, index::EFER, 0), None, "LME under paging");
    let flushes = bench.guest().flushes;
    assert_eq!(write(&mut bench, index::EFER, 0x901), Some(()));
    assert_eq!(read(&mut bench, index::EFER), Some(0xd01), "LMA stays");
    assert!(bench.guest().flushes > flushes, "NX changed");
}

#[test]
fn the_time_stamp_counter_counts_from_what_was_written() {
    let mut bench = Bench::new();
    bench.rig.host.set_tsc(5_000_000);
    assert_eq!(write(&mut bench, index::TSC, 1_000), Some(()));
    let offset = bench.guest().tsc_offset;
    assert_eq!(offset, 1_000_u64.wrapping_sub(5_000_000));
    let now = read(&mut bench, index::TSC).unwrap();
    assert!((1_000..100_000).contains(&now), "{now}");
    let adjust = read(&mut bench, index::TSC_ADJUST).unwrap();
    assert_eq!(adjust, offset);
    assert_eq!(
        write(&mut bench, index::TSC_ADJUST, adjust.wrapping_add(7)),
        Some(())
    );
    assert_eq!(bench.guest().tsc_offset, offset.wrapping_add(7));
}

#[test]
fn what_hardware_has_not_is_not_put_into_it() {
    fn poor(function: u32, index: u32) -> [u32; 4] {
        let mut answer = amd(function, index);
        match function {
            7 => answer[2] = 0,
            0x8000_0001 => answer[3] &= !(1 << 27),
            _ => {}
        }
        answer
    }
    let mut bench = Bench::on(poor);
    bench.cpu.set_cpuid(&crate::support::table(amd)).unwrap();
    assert_eq!(write(&mut bench, index::TSC_AUX, 1), None);
    assert!(bench.cpu.set_msr(&bench.vendor, index::TSC_AUX, 1).is_err());
    let mut bench = Bench::on(amd);
    assert_eq!(write(&mut bench, index::TSC_AUX, 1), Some(()));
    assert_eq!(write(&mut bench, index::TSC_AUX, 1 << 32), None);
}

#[test]
fn memory_type_ranges_are_kept() {
    let mut bench = Bench::new();
    assert_eq!(read(&mut bench, index::MTRR_CAP), Some(0x508));
    for (msr, good, bad) in [
        (index::MTRR_DEFAULT, 0xc06, 0xc02),
        (0x200, 0xffff_f006, 0xffff_f007),
        (0x20f, 0xffff_f000_0800, 0x0001_0000_0000_0800),
        (0x250, 0x0606_0606_0606_0606, 0x0606_0606_0606_0602),
        (0x26f, 0, 7 << 56),
    ] {
        assert_eq!(write(&mut bench, msr, good), Some(()), "{msr:#x}");
        assert_eq!(write(&mut bench, msr, bad), None, "{msr:#x}");
        assert_eq!(read(&mut bench, msr), Some(good), "{msr:#x}");
    }
    assert_eq!(write(&mut bench, index::MTRR_CAP, 0x508), None);
    assert_eq!(read(&mut bench, 0x210), None);
}

#[test]
fn machine_check_banks_are_as_many_as_the_owner_says() {
    let mut bench = Bench::new();
    assert_eq!(read(&mut bench, index::MCG_CAP), Some(0));
    assert_eq!(read(&mut bench, index::MC0_CTL), None);
    assert_eq!(read(&mut bench, index::MCG_CTL), None);
    bench.cpu.set_up_machine_checks(0x102).unwrap();
    assert_eq!(read(&mut bench, index::MCG_CTL), Some(u64::MAX));
    assert_eq!(read(&mut bench, index::MC0_CTL + 4), Some(u64::MAX));
    assert_eq!(read(&mut bench, index::MC0_CTL + 8), None);
    assert_eq!(
        write(&mut bench, index::MC0_CTL + 1, 1),
        None,
        "no error is made"
    );
    assert_eq!(write(&mut bench, index::MC0_CTL + 1, 0), Some(()));
    assert!(bench.cpu.set_up_machine_checks(0).is_err());
    assert!(bench.cpu.set_up_machine_checks(33).is_err());
}

#[test]
fn what_is_the_owners_is_not_written_by_the_guest() {
    let mut bench = Bench::new();
    for msr in [index::FEATURE_CONTROL, index::PLATFORM_INFO, index::SYSCFG] {
        assert_eq!(write(&mut bench, msr, 1), None, "{msr:#x}");
        bench.cpu.set_msr(&bench.vendor, msr, 1).unwrap();
        assert_eq!(read(&mut bench, msr), Some(1), "{msr:#x}");
    }
    bench
        .cpu
        .set_msr(&bench.vendor, index::MICROCODE, 77 << 32)
        .unwrap();
    assert_eq!(write(&mut bench, index::MICROCODE, 0), Some(()));
    assert_eq!(read(&mut bench, index::MICROCODE), Some(77 << 32));
}

#[test]
fn the_apics_base_is_a_frame_and_not_x2apic() {
    let mut bench = Bench::new();
    assert_eq!(read(&mut bench, index::APIC_BASE), Some(0xfee0_0800));
    assert_eq!(write(&mut bench, index::APIC_BASE, 0xfee0_0900), Some(()));
    for bad in [0xfee0_0c00, 1 << 52 | 0x800, 0xfee0_0801] {
        assert_eq!(write(&mut bench, index::APIC_BASE, bad), None, "{bad:#x}");
    }
}
