//! Counting trackers, and what happens when counting fails.
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use waterbear_core::Error;
use waterbear_core::memslot::{Change, Region, Slot, SlotFlags, SlotHooks, SpaceId};
use waterbear_core::tdp::DirtyTracking::WriteProtect;
use waterbear_core::tdp::RootRole;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MockHost;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Paging, Reached, Rig};

use crate::{NORMAL, rig};

/// The count of a page as it is, through `look`.
fn count<R>(
    rig: &Rig,
    gfn: u64,
    look: impl FnOnce(&waterbear_hal::sync::atomic::AtomicU16) -> R,
) -> R {
    let slots = rig.vm.memslots().read();
    let slot = slots.set(NORMAL).by_gfn(Gfn(gfn)).expect("memory");
    look(slot.arch.track_count(Gfn(gfn)).expect("counts"))
}

/// Whether huge mappings around a frame are allowed.
fn allows(rig: &Rig, gfn: u64, level: Level) -> bool {
    let slots = rig.vm.memslots().read();
    let slot = slots.set(NORMAL).by_gfn(Gfn(gfn)).expect("memory");
    slot.arch.allows(level, Gfn(gfn))
}

/// Proves PT-1.
#[test]
fn a_page_without_trackers_has_none_to_take_away() {
    let rig = Rig::<true>::new(Paging::Npt, WriteProtect);
    rig.memory(0, 0, 512, Level::L2);
    // Before there are counts, and after.
    for lines in [1, 2] {
        assert_eq!(rig.vm.untrack_page(NORMAL, Gfn(3)), Err(Error::Invalid));
        assert_eq!(rig.host.log_lines().len(), lines);
        rig.vm.track_page(NORMAL, Gfn(4)).unwrap();
    }
    assert_eq!(count(&rig, 3, |c| c.load(Ordering::Relaxed)), 0);
    // What the neighbour's trackers forbid stays forbidden.
    assert!(!allows(&rig, 3, Level::L2));
    let mut guest = rig.guest(0);
    guest.write(3);
    drop(guest);
    rig.finish();
}

/// Proves PT-1, PT-2.
#[test]
fn a_count_that_is_full_stays_full() {
    let rig = Rig::<true>::new(Paging::Npt, WriteProtect);
    rig.memory(0, 0, 512, Level::L2);
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    count(&rig, 3, |c| c.store(u16::MAX - 1, Ordering::Relaxed));
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    assert!(rig.host.log_lines().is_empty());
    assert_eq!(rig.vm.track_page(NORMAL, Gfn(3)), Err(Error::Busy));
    assert_eq!(rig.host.log_lines().len(), 1);
    assert_eq!(count(&rig, 3, |c| c.load(Ordering::Relaxed)), u16::MAX);
    // The neighbour has a count of its own.
    assert_eq!(count(&rig, 4, |c| c.load(Ordering::Relaxed)), 0);
    rig.vm.track_page(NORMAL, Gfn(4)).unwrap();
    rig.vm.untrack_page(NORMAL, Gfn(4)).unwrap();
    rig.vm.untrack_page(NORMAL, Gfn(3)).unwrap();
    assert!(!allows(&rig, 3, Level::L2), "one frame is tracked");
    count(&rig, 3, |c| c.store(1, Ordering::Relaxed));
    rig.vm.untrack_page(NORMAL, Gfn(3)).unwrap();
    // One reason was added by the first tracker, so there is none left.
    assert!(allows(&rig, 3, Level::L2));
    rig.finish();
}

/// Proves PT-2.
#[test]
fn several_trackers_of_a_page_count_as_many() {
    let rig = Rig::<true>::new(Paging::Npt, WriteProtect);
    rig.memory(0, 0, 512, Level::L2);
    let mut guest = rig.guest(0);
    guest.write(3);
    for _ in 0..3 {
        rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        rig.vm.untrack_page(NORMAL, Gfn(3)).unwrap();
    }
    guest.write(3);
    assert_eq!(rig.vm.mmu().mapped(Level::L2), 1);
    assert_eq!(rig.vm.untrack_page(NORMAL, Gfn(3)), Err(Error::Invalid));
    drop(guest);
    rig.finish();
}

/// Proves PT-1, MS-7.
#[test]
fn where_there_is_no_memory_nothing_is_tracked() {
    let rig = rig::<true>();
    for gfn in [16, 0xf_ffff_ffff, u64::MAX] {
        assert_eq!(
            rig.vm.track_page(NORMAL, Gfn(gfn)),
            Err(Error::NotFound),
            "{gfn:#x}"
        );
        assert_eq!(rig.vm.untrack_page(NORMAL, Gfn(gfn)), Err(Error::NotFound));
    }
    assert_eq!(
        rig.vm.track_page(SpaceId::SMM, Gfn(3)),
        Err(Error::NotFound)
    );
    rig.finish();
}

/// Tries to track a page while its slot is on its way out.
struct Meanwhile<'a>(&'a Rig);

impl SlotHooks<MockHost> for Meanwhile<'_> {
    fn zap_slot(&self, slot: &Slot<MockHost>) {
        let vm = &self.0.vm;
        assert_eq!(vm.track_page(NORMAL, slot.base), Err(Error::Again));
        assert_eq!(vm.untrack_page(NORMAL, slot.base), Err(Error::Again));
        vm.zap_slot(slot);
    }
    fn committed(&self, _change: &Change<'_, MockHost>) {
        let tried = self.0.vm.track_page(NORMAL, Gfn(0));
        assert_eq!(tried, Err(Error::NotFound));
    }
    fn mmio_generation_wrapped(&self, _space: SpaceId) {}
}

/// Proves MS-7, PT-3.
#[test]
fn a_page_whose_slot_is_being_deleted_is_tracked_later_or_never() {
    let rig = rig::<true>();
    let delete = Region {
        space: 0,
        id: 0,
        flags: SlotFlags::empty().bits(),
        guest_phys_addr: 0,
        memory_size: 0,
        userspace_addr: 0,
    };
    rig.vm
        .memslots()
        .set_region(&Meanwhile(&rig), delete)
        .unwrap();
    rig.finish();
}

/// Proves MS-5, PT-2.
#[test]
fn a_slot_that_comes_after_the_first_tracker_is_tracked_like_the_others() {
    let rig = rig::<true>();
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    rig.memory(1, 0x100, 16, Level::L1);
    rig.vm.track_page(NORMAL, Gfn(0x103)).unwrap();
    let mut guest = rig.guest(0);
    for tracked in [3, 0x103] {
        assert_eq!(guest.access(tracked, Access::WRITE), Ok(Reached::Emulated));
        guest.write(tracked + 1);
    }
    // The counts go with their slot.
    rig.slot(1, 0, 0, SlotFlags::empty()).unwrap();
    rig.slot(1, 0x100, 16, SlotFlags::empty()).unwrap();
    guest.write(0x103);
    drop(guest);
    rig.finish();
}

/// Proves MS-5, PT-1.
#[test]
fn when_memory_runs_out_the_page_is_not_tracked() {
    let rig = rig::<true>();
    rig.memory(1, 0x100, 16, Level::L1);
    let mut guest = rig.guest(0);
    guest.write(3);
    let failed = rig.host.for_each_failing_alloc(|_| {
        let tracked = rig.vm.track_page(NORMAL, Gfn(3));
        if rig.host.injection_fired() {
            assert_eq!(tracked, Err(Error::NoMemory));
            guest.write(3);
            assert_eq!(rig.vm.untrack_page(NORMAL, Gfn(3)), Err(Error::Invalid));
        } else {
            assert_eq!(tracked, Ok(()));
        }
    });
    assert!(failed >= 2, "there are two slots");
    assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
    rig.vm.untrack_page(NORMAL, Gfn(3)).unwrap();
    assert_eq!(rig.vm.untrack_page(NORMAL, Gfn(3)), Err(Error::Invalid));
    drop(guest);
    rig.finish();
}

/// Proves PT-3.
#[test]
fn a_count_changes_while_nobody_reads_under_the_lock() {
    let rig = rig::<true>();
    // There is a root, so finding it is all that the other thread does.
    let root = RootRole { space: NORMAL };
    let held = rig.vm.mmu().root(root).unwrap();
    let read = AtomicBool::new(false);
    let counted = thread::scope(|threads| {
        rig.vm
            .mmu()
            .change_tracking(rig.vm.vcpus(), [&(), &()], Gfn(3), || {
                threads.spawn(|| {
                    let _root = rig.vm.mmu().root(root);
                    read.store(true, Ordering::SeqCst);
                });
                thread::sleep(Duration::from_millis(20));
                assert!(!read.load(Ordering::SeqCst), "the lock was free to read");
                Err(Error::Busy)
            })
    });
    assert_eq!(counted, Err(Error::Busy));
    assert!(read.into_inner());
    drop(held);
    rig.finish();
}
