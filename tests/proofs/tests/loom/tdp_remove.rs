//! Tables that are removed with the lock held for reading, against faults that
//! are on their way down.

use waterbear_core::tdp::Mapped;
use waterbear_hal::Level;
use waterbear_hal::sync::twin::Part;
use waterbear_mock::hw::Access;

use crate::tdp_world::{Fault, World};
use crate::twins::{explore_bounded, must_fail};

/// A large leaf takes the place of a table while a fault installs a small one
/// in that table.
fn large_against_small() {
    explore_bounded(4, || {
        let world = World::usual();
        world.map(0, Level::L1, Fault::Write);
        let mut cache = world.cache();
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                let mapped = world.install(&mut cache, (1, Level::L1), world.page(1), Fault::Write);
                drop(cache);
                mapped
            })
        };
        let large = world.install(&mut cache, (0, Level::L2), world.page(0), Fault::Write);
        drop(cache);
        thread.join().unwrap();
        assert_eq!(large, Mapped::Installed);
        world.check_books();
        assert_eq!(world.census(), (0, [0, 1]));
        for gfn in [0, 1] {
            assert_eq!(world.reaches(gfn, Access::WRITE), Some(world.page(gfn)));
        }
        world.end();
    });
}

/// Proves TDP-4.
#[test]
fn a_large_leaf_replaces_a_table_and_no_fault_installs_below_it() {
    large_against_small();
}

/// Proves TDP-4.
#[test]
fn a_fault_installs_in_a_removed_table_if_it_is_not_frozen_twin() {
    must_fail(
        Part::FreezeRemoved,
        "twin: leaves are counted that nobody can reach",
        large_against_small,
    );
}

/// A large leaf takes the place of a table while a fault has frozen an entry
/// of that table, to put another page there.
fn large_against_another_page() {
    explore_bounded(4, || {
        let world = World::usual();
        // What the frame had before the owner changed it.
        let old = world.page(2);
        let mut cache = world.cache();
        let mapped = world.install(&mut cache, (0, Level::L1), old, Fault::Write);
        assert_eq!(mapped, Mapped::Installed);
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                let mapped = world.install(&mut cache, (0, Level::L1), world.page(0), Fault::Write);
                drop(cache);
                mapped
            })
        };
        let large = world.install(&mut cache, (1, Level::L2), world.page(1), Fault::Write);
        drop(cache);
        thread.join().unwrap();
        assert_eq!(large, Mapped::Installed);
        world.check_books();
        assert_eq!(world.census(), (0, [0, 1]));
        world.end();
    });
}

/// Proves TDP-3, TDP-4.
#[test]
fn an_entry_that_another_fault_has_frozen_is_waited_for() {
    large_against_another_page();
}

/// Proves TDP-3, TDP-4.
#[test]
fn an_entry_that_another_fault_has_frozen_is_mapped_again_without_waiting_twin() {
    must_fail(
        Part::FrozenWait,
        "twin: leaves are counted that nobody can reach",
        large_against_another_page,
    );
}

/// Roots are invalidated and emptied while a fault installs and the fast path
/// gives W back.
fn roots_against_a_fault() {
    explore_bounded(4, || {
        let world = World::usual();
        world.map(0, Level::L1, Fault::Read);
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                world.fast_write(0);
                world.install(&mut cache, (2, Level::L1), world.page(2), Fault::Write);
                drop(cache);
            })
        };
        world
            .mmu
            .invalidate_roots(&world.tlbs, [&world.log, &world.log]);
        assert!(world.root.is_invalid());
        thread.join().unwrap();
        assert_eq!(
            world.census(),
            (0, [0, 0]),
            "twin: something is mapped through an invalid root"
        );
        world.check_books();
        world.end();
    });
}

/// Proves TDP-9, BUG-11.
#[test]
fn nothing_is_mapped_through_a_root_that_was_invalidated() {
    roots_against_a_fault();
}

/// Proves TDP-9, BUG-11.
#[test]
fn a_fault_maps_through_an_invalid_root_without_the_check_under_the_lock_twin() {
    must_fail(
        Part::RootCheck,
        "twin: something is mapped through an invalid root",
        roots_against_a_fault,
    );
}
