//! What tracking does to mappings, seen by guests that run.
use std::thread;

use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Reached, Rig};

use crate::{KINDS, NORMAL};

/// Proves PT-2, PT-4.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_write_to_a_tracked_page_is_emulated_and_nothing_else_changes() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        let mut other = rig.guest(1);
        for gfn in 0..16 {
            guest.write(gfn);
            other.write(gfn);
        }
        // Every vCPU has W in its TLB.
        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
        let exits = guest.exits;
        for guest in [&mut guest, &mut other] {
            assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
            for gfn in 0..16 {
                guest.read(gfn);
            }
            for gfn in (0..16).filter(|&gfn| gfn != 3) {
                guest.write(gfn);
            }
        }
        assert!(guest.exits <= exits + 1, "one flush is all it took");
        rig.vm.untrack_page(NORMAL, Gfn(3)).unwrap();
        guest.write(3);
        // The other one was faster: its write needs no fault.
        other.write(3);
        drop((guest, other));
        rig.finish();
    }
}

/// Proves PT-2.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_is_tracked_before_it_is_mapped_is_never_writable() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(0);
        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
        assert!(
            !guest.vcpu().requests().any(),
            "nothing was mapped there, so nothing was flushed"
        );
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        guest.read(3);
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        drop(guest);
        rig.finish();
    }
}

/// Proves PT-2, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_huge_mapping_around_a_tracked_page_is_split_by_the_next_write() {
    // A page of 1 GiB has too many counts for an interpreter.
    let levels: &[Level] = if cfg!(miri) {
        &[Level::L2]
    } else {
        &[Level::L2, Level::L3]
    };
    for (paging, dirty) in KINDS.iter().copied() {
        for &level in levels {
            let rig = Rig::<true>::new(paging, dirty);
            let base = level.pages();
            rig.memory(0, base, base, level);
            let mut guest = rig.guest(0);
            let tracked = base + 0x33;
            guest.write(tracked);
            assert_eq!(rig.vm.mmu().mapped(level), 1);

            rig.vm.track_page(NORMAL, Gfn(tracked)).unwrap();
            assert_eq!(guest.access(tracked, Access::WRITE), Ok(Reached::Emulated));
            guest.read(tracked);
            for gfn in [tracked - 1, tracked + 1, base, 2 * base - 1] {
                assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
            }
            assert_eq!(rig.vm.mmu().mapped(level), 0, "it was split");
            assert!(rig.vm.mmu().mapped(Level::L1) >= 4);
            assert_eq!(guest.access(tracked, Access::WRITE), Ok(Reached::Emulated));
            guest.read(tracked);

            rig.vm.untrack_page(NORMAL, Gfn(tracked)).unwrap();
            assert_eq!(Some(guest.write(tracked)), rig.backing(Gfn(tracked)));
            assert_eq!(rig.vm.mmu().mapped(level), 1, "it is whole again");
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
            drop(guest);
            rig.finish();
        }
    }
}

/// Proves PT-2, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_tracked_page_is_not_swallowed_by_a_huge_mapping() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.memory(0, 0x200, 0x200, Level::L2);
        rig.vm.track_page(NORMAL, Gfn(0x233)).unwrap();
        let mut guest = rig.guest(0);
        // By faults on its neighbours.
        guest.read(0x232);
        guest.write(0x234);
        assert_eq!(
            guest.access(0x233, Access::WRITE),
            Ok(Reached::Emulated),
            "{paging:?}"
        );
        // By the end of dirty logging, when small mappings become large.
        let set = |flags| rig.slot(0, 0x200, 0x200, flags).unwrap();
        set(SlotFlags::LOG_DIRTY);
        guest.write(0x234);
        set(SlotFlags::empty());
        guest.write(0x235);
        assert_eq!(rig.vm.mmu().mapped(Level::L2), 0);
        assert_eq!(guest.access(0x233, Access::WRITE), Ok(Reached::Emulated));
        drop(guest);
        rig.finish();
    }
}

/// Proves PT-2.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn both_address_spaces_lose_the_permission_and_each_has_its_own_trackers() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.memory(0, 0, 16, Level::L1);
        rig.slot_in(SpaceId::SMM, 0, 0, 16, SlotFlags::empty())
            .unwrap();
        let mut normal = rig.guest(0);
        let mut smm = rig.guest(1);
        smm.switch_space(SpaceId::SMM);
        normal.write(3);
        smm.write(3);

        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
        assert_eq!(normal.access(3, Access::WRITE), Ok(Reached::Emulated));
        let exits = smm.exits;
        smm.write(3);
        assert!(smm.exits > exits, "it took a fault");

        rig.vm.track_page(SpaceId::SMM, Gfn(3)).unwrap();
        assert_eq!(normal.access(3, Access::WRITE), Ok(Reached::Emulated));
        assert_eq!(smm.access(3, Access::WRITE), Ok(Reached::Emulated));

        rig.vm.untrack_page(NORMAL, Gfn(3)).unwrap();
        normal.write(3);
        assert_eq!(smm.access(3, Access::WRITE), Ok(Reached::Emulated));
        rig.vm.untrack_page(SpaceId::SMM, Gfn(3)).unwrap();
        smm.write(3);
        drop((normal, smm));
        rig.finish();
    }
}

/// Proves PT-2, TDP-11.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_is_not_writable_now_does_not_become_so_when_it_is_tracked() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        guest.write(3);
        guest.write(4);
        // The log takes W, and ageing takes every permission where hardware
        // has no accessed bit. The fast path would give both back.
        let mut words = [0];
        rig.vm
            .read_dirty_log(NORMAL, 0, &mut words, true)
            .expect("a log");
        rig.vm.age(Rig::<true>::hva(4)..Rig::<true>::hva(5));
        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
        rig.vm.track_page(NORMAL, Gfn(4)).unwrap();
        for gfn in [3, 4] {
            for _ in 0..2 {
                assert_eq!(guest.access(gfn, Access::WRITE), Ok(Reached::Emulated));
                guest.read(gfn);
            }
        }
        drop(guest);
        rig.finish();
    }
}

/// Proves PT-4.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_page_may_be_tracked_while_a_fault_looks_for_it() {
    for (paging, dirty) in KINDS.iter().copied() {
        let cases: &[bool] = if cfg!(miri) { &[true] } else { &[false, true] };
        for &mapped in cases {
            let rig = Rig::<true>::new(paging, dirty);
            rig.memory(0, 0, 16, Level::L1);
            let mut guest = rig.guest(0);
            guest.read(0);
            if mapped {
                // Mapped for reading, so that the write needs the slow path.
                rig.user.protect(Rig::<true>::hva(3), 1, false);
                guest.read(3);
                rig.user.protect(Rig::<true>::hva(3), 1, true);
            }
            let vm = rig.vm.clone();
            // After the fault has read the count, before it has the lock.
            rig.user.on_next_resolve(move |_hva| {
                let track = thread::spawn(move || vm.track_page(NORMAL, Gfn(3)));
                track.join().unwrap().unwrap();
            });
            assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
            drop(guest);
            rig.finish();
        }
    }
}

/// Proves PT-2, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn what_was_written_before_the_page_was_tracked_is_in_the_log() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        rig.slot_in(SpaceId::SMM, 0, 0, 16, SlotFlags::LOG_DIRTY)
            .unwrap();
        let mut normal = rig.guest(0);
        let mut smm = rig.guest(1);
        smm.switch_space(SpaceId::SMM);
        normal.write(5);
        smm.write(6);
        for gfn in [5, 6] {
            rig.vm.track_page(NORMAL, Gfn(gfn)).unwrap();
        }
        assert_eq!(rig.dirty_log(0, 16), [5]);
        let mut words = [0];
        rig.vm
            .read_dirty_log(SpaceId::SMM, 0, &mut words, true)
            .expect("a log");
        assert_eq!(words, [1 << 6]);
        assert_eq!(rig.dirty_log(0, 16), [0; 0]);
        drop((normal, smm));
        rig.finish();
    }
}

/// Proves TDP-15.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_cpus_walk_through_a_tracked_page_table_of_the_guest_makes_progress() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.memory(0, 0, 16, Level::L1);
        rig.slot(1, 16, 16, SlotFlags::READONLY).unwrap();
        rig.back(16, 16, MapOptions::WRITABLE);
        let mut guest = rig.guest(0);
        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
        for _ in 0..2 {
            // Tracked, and read-only: the instruction is emulated, walk
            // included, every time.
            assert_eq!(guest.walk_through(3), Ok(Reached::Emulated));
            assert_eq!(guest.walk_through(17), Ok(Reached::Emulated));
            let page = rig.backing(Gfn(4)).unwrap();
            assert_eq!(guest.walk_through(4), Ok(Reached::Page(page)));
        }
        assert!(guest.exits < 8, "each walk ends after a few faults");
        drop(guest);
        rig.finish();
    }
}
