//! Faults install mappings.
use std::cell::Cell;
use waterbear_core::Error;
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_core::vm::Outcome;

use waterbear_hal::{Gfn, Level, Pfn, ResolveError};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::{Access, EntryMemory};
use waterbear_proofs::{Paging, Reached, Rig};

use crate::support::{Case, Look, mapping, on_both_hosts, peek, root};

/// Proves TDP-2, TDP-8.
#[test]
fn a_fault_maps_the_page_that_the_process_has() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0x100, 16, Level::L1);
        let mut guest = rig.guest(0);
        assert_eq!(Some(guest.read(0x103)), rig.backing(Gfn(0x103)));
        assert_eq!(Some(guest.write(0x104)), rig.backing(Gfn(0x104)));
        let page = rig.backing(Gfn(0x105)).unwrap();
        assert_eq!(guest.access(0x105, Access::EXEC), Ok(Reached::Page(page)));
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 3);
        // With notifications a mapping holds no reference, without it does.
        let references = if N { 0 } else { 3 };
        assert_eq!(rig.host.live().page_references, references);
    }
    on_both_hosts!(test);
}

/// Proves TDP-2, TDP-9.
#[test]
fn two_vcpus_that_touch_the_same_page_share_one_mapping() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let (mut one, mut two) = (rig.guest(0), rig.guest(1));
        // Its first entry turns back: it comes to a CPU for the first time.
        assert_eq!(two.access(99, Access::READ), Ok(Reached::Device));
        let page = one.write(3);
        let exits = two.exits;
        assert_eq!(two.write(3), page);
        assert_eq!(two.exits, exits, "the mapping was there");
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 1);
        assert_eq!(rig.host.references(page), u64::from(!N));
    }
    on_both_hosts!(test);
}

/// Proves TDP-11.
#[test]
fn a_page_that_the_host_keeps_read_only_is_mapped_without_w() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.back(0, 16, MapOptions::READ_ONLY);
        rig.slot(0, 0, 16, SlotFlags::empty()).unwrap();
        let mut guest = rig.guest(0);
        guest.read(3);
        let allows = mapping(rig, root(&guest), 3).unwrap().allows;
        assert_eq!(allows, Access::new(true, false, true));
        assert_eq!(guest.access(3, Access::WRITE), Err(Error::Fault));
        // Once the host allows it, the same mapping gets W.
        rig.host_change(3, 1, || rig.user.protect(Rig::<N>::hva(3), 1, true));
        guest.write(3);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 1);
    }
    on_both_hosts!(test);
}

/// Remembers the last entry that was read, which is the leaf.
struct Leaf<'a, const N: bool>(Look<'a, N>, Cell<u64>);

impl<const N: bool> EntryMemory for Leaf<'_, N> {
    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        self.1.set(self.0.read_entry(table, index));
        self.1.get()
    }
}

/// What the owner reaches past the caches the guest does too. EPT has a type of memory in each
/// entry, 0 for uncached and 6 for write-back (Intel SDM, "EPT Paging-Structure Memory Type");
/// under NPT the host's own tables of memory types decide.
#[test]
fn the_memory_of_a_device_is_mapped_past_the_caches() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        rig.back(0, 16, MapOptions::UNCACHED);
        rig.back(16, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 32, SlotFlags::empty()).unwrap();
        let mut guest = rig.guest(0);
        for (gfn, cached) in [(3, false), (19, true)] {
            assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
            let leaf = Leaf(Look(&rig.host), Cell::new(0));
            peek(&rig.walker, &leaf, root(&guest), gfn).unwrap();
            let seen = leaf.1.get() >> 3;
            let (seen, wanted) = match case.paging {
                // The bits PWT and PCD.
                Paging::Npt => (seen & 3, 0),
                _ => (seen & 7, if cached { 6 } else { 0 }),
            };
            assert_eq!(seen, wanted, "frame {gfn}");
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-15, TDP-11.
#[test]
fn a_write_to_a_read_only_slot_goes_to_a_device_unless_the_cpu_itself_walks_there() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 16, SlotFlags::READONLY).unwrap();
        let mut guest = rig.guest(0);
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Device));
        guest.read(3);
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Device));
        assert!(!mapping(rig, root(&guest), 3).unwrap().allows.write);
        let walk = Wanted {
            write: true,
            exec: false,
            guest_walk: true,
            absent: false,
        };
        let outcome = rig.vm.handle_fault(&mut guest.mmu, Gfn(3).gpa(), walk);
        assert_eq!(outcome, Ok(Outcome::Emulate));
    }
    on_both_hosts!(test);
}

/// Proves TDP-15, TDP-11.
#[test]
fn a_walk_of_the_guest_that_writes_to_a_tracked_page_is_emulated() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        let vm = &rig.vm;
        vm.memslots().activate_track().unwrap();
        {
            let slots = vm.memslots().read();
            let slot = slots.set(SpaceId::NORMAL).by_gfn(Gfn(3)).unwrap();
            let count = || {
                let count = slot.arch.track_count(Gfn(3)).unwrap();
                count.store(1, waterbear_hal::sync::atomic::Ordering::Relaxed);
                Ok(true)
            };
            vm.mmu()
                .change_tracking(vm.vcpus(), [&(), &()], Gfn(3), count)
                .unwrap();
        }
        assert!(!mapping(rig, root(&guest), 3).unwrap().allows.write);
        for guest_walk in [false, true] {
            let write = Wanted {
                write: true,
                exec: false,
                guest_walk,
                absent: false,
            };
            let outcome = vm.handle_fault(&mut guest.mmu, Gfn(3).gpa(), write);
            assert_eq!(outcome, Ok(Outcome::Emulate));
        }
        guest.read(3);
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        // A fault that makes the mapping anew leaves W out as well.
        rig.host_change(3, 1, || ());
        guest.read(3);
        assert!(!mapping(rig, root(&guest), 3).unwrap().allows.write);
        assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
        guest.write(4);
    }
    on_both_hosts!(test);
}

/// Proves TDP-2, TDP-14.
#[test]
fn a_page_that_cannot_be_had_leaves_no_mapping_and_no_reference() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        let failures = [
            (ResolveError::Fault, Error::Fault),
            (ResolveError::Poisoned, Error::Poisoned),
            (ResolveError::Interrupted, Error::Interrupted),
            (ResolveError::NoMemory, Error::NoMemory),
        ];
        for (failure, error) in failures {
            rig.user.fail_next_resolve(failure);
            assert_eq!(guest.access(3, Access::WRITE), Err(error));
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
            assert_eq!(rig.host.live().page_references, 0);
        }
        guest.write(3);
    }
    on_both_hosts!(test);
}

/// Proves TDP-12, TDP-7.
#[test]
fn the_last_frame_that_a_root_reaches_can_be_mapped_and_zapped() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        let end = case.paging.format(case.root).end().0;
        rig.memory(0, end - 512, 512, Level::L2);
        let mut guest = rig.guest(0);
        for gfn in [end - 1, end - 512] {
            assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
        }
        // Nothing appears at the other end, or beyond.
        assert_eq!(mapping(rig, root(&guest), 0), None);
        for gfn in [end, end + 1, end + 511, (1 << 52) - 1] {
            for _ in 0..2 {
                assert_eq!(guest.access(gfn, Access::WRITE), Ok(Reached::Device));
            }
            assert_eq!(
                rig.vm.prefault(&mut guest.mmu, Gfn(gfn).gpa()),
                Err(Error::NotFound)
            );
        }
        rig.host.contend_every(1);
        rig.host_change(end - 1, 1, || rig.back(end - 1, 1, MapOptions::WRITABLE));
        assert_eq!(mapping(rig, root(&guest), end - 1), None);
        assert_eq!(Some(guest.write(end - 1)), rig.backing(Gfn(end - 1)));
        // A slot beyond the reach of the tables is refused.
        let flags = SlotFlags::empty();
        assert_eq!(rig.slot(1, end, 1, flags), Err(Error::Invalid));
        assert_eq!(rig.slot(1, end - 1, 2, flags), Err(Error::Invalid));
        rig.slot(0, end - 512, 0, flags).unwrap();
        assert_eq!(mapping(rig, root(&guest), end - 512), None);
    }
    on_both_hosts!(test);
}

/// Proves TDP-15.
#[test]
fn nested_entries_are_user_entries_at_every_level() {
    for root_level in [Level::L4, Level::L5] {
        let case = Case {
            paging: Paging::Npt,
            root: root_level,
            dirty: waterbear_core::tdp::DirtyTracking::WriteProtect,
        };
        let rig = case.rig::<true>();
        rig.memory(0, 0, 512, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(0);
        let (mut table, mut level) = (root(&guest), root_level);
        loop {
            let entry = Look(&rig.host).read_entry(table, 0);
            assert_eq!(entry & 0b101, 0b101, "present and user at {level:?}");
            let Some(below) = level.below() else {
                break;
            };
            table = waterbear_hal::Pfn((entry & 0x000f_ffff_ffff_f000) >> 12);
            level = below;
        }
        drop(guest);
        crate::support::end(rig);
    }
}

/// Proves TDP-14, TDP-11.
#[test]
fn the_host_hears_that_a_page_may_be_written_when_w_is_given_ahead_of_a_write() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        let page = guest.read(3);
        let exits = guest.exits;
        guest.write(3);
        assert_eq!(guest.exits, exits, "W was given with the read");
        rig.host_change(3, 1, || ());
        assert!(rig.host.is_dirty(page), "the page was written");
    }
    on_both_hosts!(test);
}

/// Proves TDP-14.
#[test]
fn a_page_that_the_guest_cannot_write_is_not_reported_dirty_on_a_host_with_notifications() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.back(0, 16, MapOptions::READ_ONLY);
        rig.slot(0, 0, 16, SlotFlags::empty()).unwrap();
        let mut guest = rig.guest(0);
        let page = guest.read(3);
        assert!(!rig.host.is_dirty(page));
    }
    crate::support::on_each::<true>(test::<true>);
}
