//! Which pages are in use.
use waterbear_core::memslot::SlotFlags;
use waterbear_hal::Level;
use waterbear_mock::MapOptions;
use waterbear_mock::hw::EntryMemory;
use waterbear_proofs::{Paging, Rig};

use crate::support::{Look, mapping, on_each, root};

fn hvas(first: u64, end: u64) -> std::ops::Range<waterbear_hal::Hva> {
    Rig::<true>::hva(first)..Rig::<true>::hva(end)
}

/// Proves TDP-14, TDP-10.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_is_young_from_its_use_until_its_age_is_cleared() {
    on_each::<true>(|case, rig| {
        rig.memory(0, 0, 1024, Level::L2);
        rig.memory(1, 2048, 16, Level::L1);
        let mut guest = rig.guest(0);
        for contention in [0, 1] {
            rig.host.contend_every(contention);
            for (at, other) in [(3, 1023), (2051, 2052)] {
                guest.tlb().flush();
                guest.read(at);
                assert!(rig.vm.is_young(hvas(at, at + 1)));
                assert!(rig.vm.age(hvas(at, at + 1)), "{at} was used");
                assert!(!rig.vm.age(hvas(at, at + 1)), "and not since");
                assert!(!rig.vm.is_young(hvas(at, at + 1)));
                assert!(!rig.vm.age(hvas(other, other + 1)), "not mapped");
                // The next use shows, if the TLB has let go of it.
                guest.tlb().flush();
                guest.read(at);
                assert!(rig.vm.is_young(hvas(at, at + 1)), "{case:?}");
                assert!(rig.vm.age(hvas(0, 4096)));
                assert!(!rig.vm.age(hvas(0, 4096)));
                guest.tlb().flush();
                guest.write(at);
                assert!(rig.vm.age(hvas(0, 4096)));
            }
            rig.host.contend_every(0);
        }
    });
}

/// Proves TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn asking_for_age_changes_nothing() {
    on_each::<true>(|case, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        let flushes = guest.tlb().flushes();
        let (young, history) = rig.host.record(|| rig.vm.is_young(hvas(0, 16)));
        assert!(young && history.events().is_empty());
        rig.vm.age(hvas(0, 16));
        let (young, history) = rig.host.record(|| rig.vm.is_young(hvas(0, 16)));
        assert!(!young && history.events().is_empty());
        guest.read(3);
        // Only where permissions are put aside does ageing flush.
        let flushed = guest.tlb().flushes() > flushes;
        assert_eq!(flushed, case.paging == Paging::EptPlain);
    });
}

/// Proves TDP-14, TDP-11, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn an_aged_page_keeps_its_frame_and_is_logged_when_it_is_written() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        let page = guest.write(3);
        assert_eq!(rig.dirty_log(0, 16), [3]);
        for _ in 0..2 {
            assert!(rig.vm.age(hvas(0, 16)));
            guest.tlb().flush();
            assert_eq!(guest.read(3), page);
            assert_eq!(rig.dirty_log(0, 16), [], "a read is no write");
            assert!(rig.vm.age(hvas(0, 16)));
            guest.tlb().flush();
            assert_eq!(guest.write(3), page);
            assert!(rig.vm.age(hvas(0, 16)));
            assert_eq!(rig.dirty_log(0, 16), [3], "ageing hides no write");
            guest.write(3);
            assert_eq!(rig.dirty_log(0, 16), [3]);
        }
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 1);
    });
}

/// Proves TDP-14, TDP-6.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn an_aged_page_is_zapped_like_any_other() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        assert!(rig.vm.age(hvas(0, 16)));
        rig.host_change(3, 1, || rig.back(3, 1, MapOptions::WRITABLE));
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        assert_eq!(mapping(rig, root(&guest), 3), None);
        assert!(!rig.vm.age(hvas(0, 16)));
        guest.write(3);
    });
}

/// Proves TDP-10, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn clearing_age_keeps_the_dirty_bit() {
    on_each::<true>(|case, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(0);
        rig.vm.age(hvas(0, 16));
        let dirty = rig.walker.format.dirty();
        let (mut table, mut level) = (root(&guest), case.root);
        while let Some(below) = level.below() {
            let link = Look(&rig.host).read_entry(table, 0);
            table = waterbear_hal::Pfn(link >> 12 & ((1 << 40) - 1));
            level = below;
        }
        let leaf = Look(&rig.host).read_entry(table, 0);
        assert_eq!(leaf & dirty, dirty);
    });
}
