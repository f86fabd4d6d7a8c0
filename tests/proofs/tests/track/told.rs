//! What trackers are told, and when.
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::page_track::{self, Tracker};
use waterbear_core::vm::Registration;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Gpa, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Reached, Rig};

use crate::{KINDS, NORMAL, Notes, Told, rig};

/// Proves PT-6.
#[test]
fn every_tracker_is_told_of_a_write_after_it_was_made() {
    /// Memory as the emulator leaves it, and what the tracker found there.
    struct Looks {
        memory: &'static AtomicU64,
        seen: &'static Mutex<Vec<u64>>,
    }
    impl Tracker for Looks {
        fn track_write(&self, _space: SpaceId, _gpa: Gpa, bytes: &[u8]) {
            let now = self.memory.load(Ordering::Relaxed);
            assert_eq!(bytes, now.to_le_bytes(), "the write comes first");
            self.seen.lock().unwrap().push(now);
        }
        fn track_remove_region(&self, _space: SpaceId, _gfn: Gfn, _npages: u64) {}
    }
    static MEMORY: AtomicU64 = AtomicU64::new(0);
    static SEEN: Mutex<Vec<u64>> = Mutex::new(Vec::new());

    let rig = rig::<true>();
    let looks = Looks {
        memory: &MEMORY,
        seen: &SEEN,
    };
    let looks = page_track::shared(&rig.host, looks).unwrap();
    let notes = Notes::default();
    let first = Registration::new(&rig.vm, &looks).unwrap();
    let second = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    let mut guest = rig.guest(0);
    for value in 1..4_u64 {
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        MEMORY.store(value, Ordering::Relaxed);
        rig.vm.written(NORMAL, Gpa(0x3008), &value.to_le_bytes());
        let told = Told::Write(NORMAL, Gpa(0x3008), value.to_le_bytes().to_vec());
        assert_eq!(notes.take(), [told]);
    }
    assert_eq!(*SEEN.lock().unwrap(), [1, 2, 3]);
    drop(guest);
    drop((first, second, looks));
    rig.finish();
}

/// Proves PT-6, TDP-13.
#[test]
fn an_emulated_write_is_in_the_dirty_log() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 8, SlotFlags::LOG_DIRTY).unwrap();
        rig.slot(1, 8, 8, SlotFlags::LOG_DIRTY).unwrap();
        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
        let mut guest = rig.guest(0);
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        rig.vm.written(NORMAL, Gpa(0x3ff8), &[1; 8]);
        rig.vm.written(NORMAL, Gpa(0x6fff), &[]);
        assert_eq!(rig.dirty_log(0, 8), [3]);
        // Across pages and slots, and where there is no memory.
        rig.vm.written(NORMAL, Gpa(0x7fff), &[1; 2]);
        rig.vm.written(NORMAL, Gpa(0xf000), &[1; 4097]);
        rig.vm.written(SpaceId::SMM, Gpa(0x1000), &[1]);
        rig.vm.written(NORMAL, Gpa(u64::MAX), &[1; 2]);
        assert_eq!(rig.dirty_log(0, 8), [7]);
        assert_eq!(rig.dirty_log(1, 8), [0, 7]);
        drop(guest);
        rig.finish();
    }
}

/// Proves PT-6.
#[test]
fn a_region_is_removed_when_its_slot_is_gone_for_good() {
    /// Looks whether the slot is there when it is told that it is not.
    struct Looks(
        waterbear_core::mem::Shared<Vm, waterbear_mock::MockHost>,
        Notes,
    );
    type Vm = waterbear_core::vm::Vm<waterbear_mock::MockHost>;
    impl Tracker for Looks {
        fn track_write(&self, _space: SpaceId, _gpa: Gpa, _bytes: &[u8]) {}
        fn track_remove_region(&self, space: SpaceId, gfn: Gfn, npages: u64) {
            assert!(self.0.memslots().read().set(space).by_gfn(gfn).is_none());
            assert_eq!(self.0.mmu().mapped(Level::L1), 1, "slot 1 is mapped");
            self.1.track_remove_region(space, gfn, npages);
        }
    }

    let rig = rig::<true>();
    rig.memory(1, 0x100, 16, Level::L1);
    let notes = Notes::default();
    let looks = page_track::shared(&rig.host, Looks(rig.vm.clone(), notes.clone())).unwrap();
    let registration = Registration::new(&rig.vm, &looks).unwrap();
    let mut guest = rig.guest(0);
    guest.write(0x100);
    guest.write(5);
    rig.slot_in(SpaceId::SMM, 7, 8, 4, SlotFlags::empty())
        .unwrap();
    rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
    rig.slot(0, 0, 16, SlotFlags::empty()).unwrap();
    assert_eq!(notes.take(), [], "nothing was removed");
    rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
    rig.slot_in(SpaceId::SMM, 7, 0, 0, SlotFlags::empty())
        .unwrap();
    assert_eq!(
        notes.take(),
        [
            Told::Removed(NORMAL, Gfn(0), 16),
            Told::Removed(SpaceId::SMM, Gfn(8), 4)
        ]
    );
    drop(guest);
    drop((registration, looks));
    rig.finish();
}

/// Proves PT-6, MS-4.
#[test]
fn a_delete_that_fails_removes_no_region() {
    let rig = rig::<true>();
    let notes = Notes::default();
    let registration = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    let mut guest = rig.guest(0);
    let failed = rig.host.for_each_failing_alloc(|_| {
        let deleted = rig.slot(0, 0, 0, SlotFlags::empty());
        if rig.host.injection_fired() {
            assert_eq!(deleted, Err(Error::NoMemory));
            assert_eq!(notes.take(), []);
            // The page is tracked as before, mapped or not.
            assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
            guest.write(4);
        } else {
            assert_eq!(deleted, Ok(()));
            assert_eq!(notes.take(), [Told::Removed(NORMAL, Gfn(0), 16)]);
        }
    });
    assert!(failed > 1, "the first of them fails before the zap");
    drop(guest);
    drop(registration);
    rig.finish();
}

/// Proves PT-6.
#[test]
fn slots_move_only_while_no_tracker_is_attached() {
    let rig = rig::<true>();
    let mv = |gfn| {
        rig.vm.set_region(waterbear_core::memslot::Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: gfn * PAGE_SIZE,
            memory_size: 16 * PAGE_SIZE,
            userspace_addr: Rig::<true>::hva(0).0,
        })
    };
    mv(0x100).unwrap();
    let notes = Notes::default();
    let registration = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    assert_eq!(mv(0x200), Err(Error::Invalid));
    // An identical request and a change of flags are no moves.
    mv(0x100).unwrap();
    registration.unregister();
    mv(0x200).unwrap();
    assert_eq!(notes.take(), []);
    rig.finish();
}
