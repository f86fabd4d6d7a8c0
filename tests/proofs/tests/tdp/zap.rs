//! Removing mappings.
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::walk::Yielding::{Allowed, Forbidden};
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Reached, Rig};

use crate::support::{Case, Watch, mapping, on_both_hosts, on_each, root};

const L2: u64 = 512;
const L3: u64 = 512 * 512;

/// Proves TDP-6, TDP-7.
#[test]
fn a_deleted_slot_is_gone_from_tables_and_tlb() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        for contention in [0, 1, 3] {
            rig.host.contend_every(contention);
            rig.memory(0, 0, 64, Level::L1);
            let mut guest = rig.guest(contention as u32);
            for gfn in 0..64 {
                guest.write(gfn);
            }
            rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
            assert_eq!(rig.host.live().page_references, 0);
            for gfn in 0..64 {
                assert_eq!(guest.access(gfn, Access::READ), Ok(Reached::Device));
            }
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-7, TDP-6, BUG-3.
#[test]
fn a_zap_takes_exactly_its_range_however_often_it_yields() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 3 * L2, Level::L1);
        let mut guest = rig.guest(0);
        let all = [
            0,
            1,
            255,
            L2 - 1,
            L2,
            L2 + 1,
            2 * L2 - 1,
            2 * L2,
            3 * L2 - 1,
        ];
        let ranges = [
            (0, 1),
            (1, L2),
            (L2 - 1, L2 + 1),
            (L2, 2 * L2),
            (L2 + 1, 3 * L2),
            (0, 3 * L2),
            (5, 5),
            (3 * L2, 4 * L2),
            (9, 3),
        ];
        let vm = &rig.vm;
        for (start, end) in ranges {
            for contention in [0, 1, 2] {
                for yielding in [Allowed, Forbidden] {
                    for gfn in all {
                        guest.write(gfn);
                    }
                    rig.host.contend_every(contention);
                    let range = Gfn(start)..Gfn(end);
                    let watch = Watch::new(rig);
                    vm.mmu().zap(&watch, &(), SpaceId::NORMAL, range, yielding);
                    rig.host.contend_every(0);
                    for gfn in all {
                        let gone = (start..end).contains(&gfn);
                        let found = mapping(rig, root(&guest), gfn);
                        assert_eq!(found.is_none(), gone, "{gfn:#x} in {start:#x}..{end:#x}");
                        assert!(!gone || watch.flushed(gfn));
                    }
                    let any = all.iter().any(|gfn| (start..end).contains(gfn));
                    assert_eq!(watch.count() > 0, any, "{start:#x}..{end:#x}");
                }
            }
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-6, TDP-7, BUG-3.
#[test]
fn a_zap_flushes_what_it_removed_each_time_before_it_yields() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        // What is removed comes first, and then there is nothing for long.
        rig.memory(0, 0, 2 * L2, Level::L1);
        let mut guest = rig.guest(0);
        let pages = if cfg!(miri) { 8 } else { 64 };
        for gfn in 1..=pages {
            guest.write(gfn);
        }
        rig.host.contend_every(1);
        let watch = Watch::new(rig);
        // Not from 0 on: then the first table would go as a whole.
        rig.vm
            .mmu()
            .zap(&watch, &(), SpaceId::NORMAL, Gfn(1)..Gfn(L2 + 9), Allowed);
        rig.host.contend_every(0);
        // A look at who waits comes after every entry, in release builds after
        // every 64th.
        let sections = if cfg!(debug_assertions) {
            pages as usize
        } else {
            1
        };
        assert!(watch.count() >= sections, "{} flushes", watch.count());
        if cfg!(debug_assertions) {
            let flushes = watch.flushes.borrow();
            for gfn in 1..=pages {
                assert!(flushes.contains(&(gfn, gfn + 1)), "{gfn:#x}");
            }
        }
        for gfn in 1..=pages {
            assert_eq!(mapping(rig, root(&guest), gfn), None);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-7, TDP-12.
#[test]
fn a_large_mapping_that_a_zap_touches_goes_as_a_whole() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, L3, Level::L3);
        rig.memory(1, L3, 4 * L2, Level::L2);
        let mut guest = rig.guest(0);
        for (touched, size, first) in [(12_345, L3, 0), (L3 + L2 + 3, L2, L3 + L2)] {
            for contention in [0, 1] {
                for gfn in [5, L3 + 1, L3 + L2, L3 + 2 * L2] {
                    guest.write(gfn);
                }
                rig.host.contend_every(contention);
                let watch = Watch::new(rig);
                let range = Gfn(touched)..Gfn(touched + 1);
                rig.vm
                    .mmu()
                    .zap(&watch, &(), SpaceId::NORMAL, range, Allowed);
                rig.host.contend_every(0);
                assert_eq!(*watch.flushes.borrow(), [(first, first + size)]);
                for gfn in [5, L3 + 1, L3 + L2, L3 + 2 * L2] {
                    let gone = (first..first + size).contains(&gfn);
                    assert_eq!(mapping(rig, root(&guest), gfn).is_none(), gone);
                }
            }
        }
    });
}

/// Proves TDP-7, TDP-1.
#[test]
fn a_zap_crosses_the_edges_of_tables_at_every_level() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        let mut edges = vec![L2, L3, L3 * 512];
        if case.root == Level::L5 {
            edges.push(L3 * L3);
        }
        for (id, &edge) in edges.iter().enumerate() {
            rig.memory(id as u32, edge - 2, 4, Level::L1);
        }
        let mut guest = rig.guest(0);
        for contention in [0, 1] {
            for &edge in &edges {
                for gfn in edge - 2..edge + 2 {
                    guest.write(gfn);
                }
                let tables = rig.host.live().tables;
                rig.host.contend_every(contention);
                rig.host_change(edge - 1, 2, || rig.back(edge - 1, 2, MapOptions::WRITABLE));
                rig.host.contend_every(0);
                let found = [-2, -1, 0, 1].map(|at| {
                    let gfn = edge.wrapping_add_signed(at);
                    mapping(rig, root(&guest), gfn).is_some()
                });
                assert_eq!(found, [true, false, false, true], "at {edge:#x}");
                for gfn in edge - 2..edge + 2 {
                    assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
                }
                assert_eq!(rig.host.live().tables, tables);
            }
        }
        // A range with whole tables frees them, up to the root.
        let one = 1 + guest_tables();
        let last = edges.last().unwrap() + 2;
        let vm = &rig.vm;
        vm.mmu().zap(
            vm.vcpus(),
            &(),
            SpaceId::NORMAL,
            Gfn(0)..Gfn(last.next_multiple_of(1 << 45)),
            Allowed,
        );
        assert!(rig.host.live().tables <= one, "{}", rig.host.live().tables);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
    }
    /// What a vCPU keeps ready.
    fn guest_tables() -> usize {
        4
    }
    on_both_hosts!(test);
}

/// Proves TDP-9, TDP-6.
#[test]
fn a_zap_reaches_one_address_space_and_leaves_the_other() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        rig.slot_in(SpaceId::SMM, 0, 0, 16, SlotFlags::empty())
            .unwrap();
        let (mut normal, mut smm) = (rig.guest(0), rig.guest(1));
        smm.switch_space(SpaceId::SMM);
        let page = normal.write(3);
        assert_eq!(smm.write(3), page);
        assert_ne!(root(&normal), root(&smm));
        rig.slot_in(SpaceId::SMM, 0, 0, 0, SlotFlags::empty())
            .unwrap();
        assert_eq!(smm.access(3, Access::READ), Ok(Reached::Device));
        assert!(mapping(rig, root(&normal), 3).is_some());
        // The host's changes reach both.
        rig.slot_in(SpaceId::SMM, 0, 0, 16, SlotFlags::empty())
            .unwrap();
        smm.write(3);
        rig.host_change(3, 1, || rig.back(3, 1, MapOptions::WRITABLE));
        for guest in [&mut normal, &mut smm] {
            assert_eq!(mapping(rig, root(guest), 3), None);
            assert_eq!(Some(guest.write(3)), rig.backing(Gfn(3)));
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-6, TDP-7.
#[test]
fn a_slot_that_moves_takes_its_mappings_away() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.back(0, 0x100, MapOptions::WRITABLE);
        let region = |gfn: u64| waterbear_core::memslot::Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: gfn << 12,
            memory_size: 16 << 12,
            userspace_addr: Rig::<N>::hva(0).0,
        };
        rig.vm.set_region(region(0x100)).unwrap();
        let mut guest = rig.guest(0);
        let page = guest.write(0x103);
        rig.host.contend_every(1);
        rig.vm.set_region(region(0x108)).unwrap();
        assert_eq!(guest.access(0x103, Access::READ), Ok(Reached::Device));
        assert_eq!(guest.write(0x10b), page);
        assert_eq!(guest.write(0x109), rig.backing(Gfn(1)).unwrap());
    }
    on_both_hosts!(test);
}
