//! Large mappings: where they may stand, split, collapse.
use waterbear_core::memslot::{Region, SlotFlags, SpaceId};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_proofs::{Guest, HVA, Rig};

use crate::support::{Case, Watch, end, mapping, on_both_hosts, on_each, root};

const L2: u64 = 512;
const L3: u64 = 512 * 512;

/// The level at which the guest's frame is mapped.
#[track_caller]
fn level<const N: bool>(rig: &Rig<N>, guest: &Guest<'_, N>, gfn: u64) -> Level {
    mapping(rig, root(guest), gfn).expect("it is mapped").level
}

/// Every frame of the range is mapped to the page that the process has.
#[track_caller]
fn assert_right<const N: bool>(
    rig: &Rig<N>,
    guest: &Guest<'_, N>,
    gfns: impl IntoIterator<Item = u64>,
) {
    for gfn in gfns {
        let found = mapping(rig, root(guest), gfn).map(|t| t.pfn);
        assert_eq!(found, rig.backing(Gfn(gfn)), "{gfn:#x}");
    }
}

/// Proves TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_mapping_is_as_large_as_the_hosts_where_it_may_be() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, L3, Level::L3);
        rig.memory(1, L3, 2 * L2, Level::L2);
        rig.memory(2, 2 * L3, L2, Level::L1);
        let mut guest = rig.guest(0);
        let largest = |level: Level| if N { level } else { Level::L1 };
        for (gfn, host) in [
            (L3 - 7, Level::L3),
            (L3 + 700, Level::L2),
            (2 * L3 + 9, Level::L1),
        ] {
            assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
            assert_eq!(level(rig, &guest, gfn), largest(host));
        }
        if N {
            assert_right(
                rig,
                &guest,
                [0, 1, L2 - 1, L2, L3 - 1, L3 + L2, L3 + 2 * L2 - 1],
            );
            assert_eq!(mapping(rig, root(&guest), L3 + L2 - 1), None);
            let mapped = Level::LEAVES.map(|level| rig.vm.mmu().mapped(level));
            assert_eq!(mapped, [1, 1, 1]);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-12, BUG-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_large_page_that_the_slots_edge_cuts_is_mapped_small() {
    on_each::<true>(|_, rig| {
        // The host's large pages reach beyond the slot on both sides.
        rig.back(0, 4 * L2, MapOptions::WRITABLE.up_to(Level::L3));
        let (first, last) = (L2 - 5, 3 * L2 + 6);
        rig.slot(0, first, last + 1 - first, SlotFlags::empty())
            .unwrap();
        let mut guest = rig.guest(0);
        for (gfn, expected) in [
            (first, Level::L1),
            (L2 - 1, Level::L1),
            (L2, Level::L2),
            (3 * L2 - 1, Level::L2),
            (3 * L2, Level::L1),
            (last, Level::L1),
        ] {
            guest.write(gfn);
            assert_eq!(level(rig, &guest, gfn), expected, "{gfn:#x}");
        }
        assert_eq!(mapping(rig, root(&guest), first - 1), None);
        assert_eq!(mapping(rig, root(&guest), last + 1), None);
        // Blocking and unblocking at the edges stays inside the slot's counts.
        let slots = rig.vm.memslots().read();
        let arch = &slots.set(SpaceId::NORMAL).by_gfn(Gfn(first)).unwrap().arch;
        for gfn in [first, L2, last] {
            arch.block(Gfn(gfn)).unwrap();
            arch.unblock(Gfn(gfn)).unwrap();
        }
        for gfn in [first - 1, last + 1] {
            assert!(arch.block(Gfn(gfn)).is_err());
        }
        assert!(arch.allows(Level::L2, Gfn(L2)) && !arch.allows(Level::L2, Gfn(L2 - 1)));
    });
}

/// Proves TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn guest_and_host_addresses_that_are_not_aligned_alike_are_mapped_small() {
    on_each::<true>(|_, rig| {
        rig.back(0, 4 * L2, MapOptions::WRITABLE.up_to(Level::L2));
        rig.vm
            .set_region(Region {
                space: 0,
                id: 0,
                flags: 0,
                guest_phys_addr: 0,
                memory_size: 2 * L2 * PAGE_SIZE,
                userspace_addr: HVA.0 + PAGE_SIZE,
            })
            .unwrap();
        let mut guest = rig.guest(0);
        assert_eq!(Some(guest.write(L2 + 3)), rig.backing(Gfn(L2 + 4)));
        assert_eq!(level(rig, &guest, L2 + 3), Level::L1);
    });
}

/// Proves TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_blocks_large_mappings_is_mapped_small_until_it_no_longer_does() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 2 * L2, Level::L2);
        let mut guest = rig.guest(0);
        {
            let slots = rig.vm.memslots().read();
            let arch = &slots.set(SpaceId::NORMAL).by_gfn(Gfn(0)).unwrap().arch;
            arch.block(Gfn(5)).unwrap();
        }
        guest.write(9);
        guest.write(L2);
        assert_eq!(level(rig, &guest, 9), Level::L1);
        assert_eq!(level(rig, &guest, L2), Level::L2);
        {
            let slots = rig.vm.memslots().read();
            let arch = &slots.set(SpaceId::NORMAL).by_gfn(Gfn(0)).unwrap().arch;
            arch.unblock(Gfn(5)).unwrap();
        }
        // The next fault puts a leaf in place of the table.
        guest.write(10);
        assert_eq!(level(rig, &guest, 9), Level::L2);
        assert_right(rig, &guest, 0..L2);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        assert_eq!(rig.vm.mmu().mapped(Level::L2), 2);
    });
}

/// Proves TDP-12, TDP-5.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_logged_write_to_a_large_mapping_splits_it_and_moves_nothing() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, L3, Level::L3);
        let mut guest = rig.guest(0);
        guest.write(7);
        assert_eq!(level(rig, &guest, 7), Level::L3);
        rig.slot(0, 0, L3, SlotFlags::LOG_DIRTY).unwrap();
        guest.write(7);
        assert_eq!(level(rig, &guest, 7), Level::L1);
        assert_eq!(level(rig, &guest, L2), Level::L2);
        assert_right(rig, &guest, (0..L2).chain([L2, L3 - 1, 77 * L2 + 3]));
        let mapped = Level::LEAVES.map(|level| rig.vm.mmu().mapped(level));
        assert_eq!(mapped, [512, 511, 0]);
        assert_eq!(rig.dirty_log(0, L3), [7]);
        // Every other page still reports its first write.
        guest.write(8);
        guest.write(L3 - 1);
        assert_eq!(rig.dirty_log(0, L3), [8, L3 - 1]);
        rig.slot(0, 0, L3, SlotFlags::empty()).unwrap();
        assert_eq!(level(rig, &guest, 7), Level::L3);
        let mapped = Level::LEAVES.map(|level| rig.vm.mmu().mapped(level));
        assert_eq!(mapped, [0, 0, 1], "logging has stopped");
    });
}

/// Proves TDP-5, TDP-12, TDP-7.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn splitting_ahead_changes_no_translation_and_flushes_nothing() {
    on_each::<true>(|_, rig| {
        for contention in [0, 1, 3] {
            rig.memory(0, 0, 4 * L2, Level::L2);
            let mut guest = rig.guest(contention as u32);
            for gfn in [3, L2 + 1, 3 * L2] {
                guest.write(gfn);
            }
            let before: Vec<_> = (0..4 * L2)
                .map(|gfn| mapping(rig, root(&guest), gfn).map(|t| (t.pfn, t.allows)))
                .collect();
            rig.host.contend_every(contention);
            let watch = Watch::new(rig);
            let split = rig.vm.mmu().split_range(
                &watch,
                &(),
                SpaceId::NORMAL,
                Gfn(L2 - 1)..Gfn(3 * L2 + 1),
            );
            assert_eq!(split, Ok(()));
            rig.host.contend_every(0);
            assert_eq!(watch.count(), 0);
            let after: Vec<_> = (0..4 * L2)
                .map(|gfn| mapping(rig, root(&guest), gfn).map(|t| (t.pfn, t.allows)))
                .collect();
            assert_eq!(before, after);
            assert_eq!(rig.vm.mmu().mapped(Level::L2), 0);
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 3 * 512);
            rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        }
    });
}

/// Proves TDP-5, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_leaf_in_place_of_a_table_flushes_the_whole_range() {
    on_each::<true>(|case, rig| {
        rig.memory(0, 0, 2 * L2, Level::L2);
        rig.slot(0, 0, 2 * L2, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        guest.write(3);
        guest.write(4);
        guest.tlb().flush();
        guest.write(3);
        let flushes = guest.tlb().flushes();
        rig.slot(0, 0, 2 * L2, SlotFlags::empty()).unwrap();
        guest.read(9);
        assert!(guest.tlb().flushes() > flushes, "{case:?}");
        assert_eq!(level(rig, &guest, 3), Level::L2);
    });
}

/// Proves TDP-14, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_end_of_logging_maps_nothing_that_was_not_mapped_on_a_host_that_pins() {
    for case in crate::support::cases() {
        let rig = case.rig::<false>();
        rig.memory(0, 0, 4 * L2, Level::L2);
        rig.slot(0, 0, 4 * L2, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        guest.write(5);
        guest.write(L2 + 5);
        rig.slot(0, 0, 4 * L2, SlotFlags::empty()).unwrap();
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 2);
        assert_eq!(rig.host.live().page_references, 2);
        drop(guest);
        end(rig);
    }
}

/// Proves TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_host_page_that_the_host_splits_is_mapped_small() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 2 * L2, Level::L2);
        let mut guest = rig.guest(0);
        guest.write(3);
        rig.host_change(3, 1, || {
            rig.user.limit_level(Rig::<true>::hva(3), 1, Level::L1)
        });
        assert_eq!(mapping(rig, root(&guest), 4), None, "it went as a whole");
        guest.write(4);
        assert_eq!(level(rig, &guest, 4), Level::L1);
        guest.write(L2);
        assert_eq!(level(rig, &guest, L2), Level::L2);
    });
}
