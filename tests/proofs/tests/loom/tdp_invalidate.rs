//! The host's changes against faults that are looking for their page.

use waterbear_core::tdp::Mapped;
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;

use crate::tdp_world::{Fault, World, hva};
use crate::twins::{explore, must_fail};

/// The host puts another page behind a frame, as it announces such changes,
/// while the guest touches it. `mapped` says whether the old page is mapped
/// before; then it is in the TLB too.
fn change_against_fault(mapped: bool) {
    explore(move || {
        let world = World::usual();
        let old = world.page(0);
        if mapped {
            world.map(0, Level::L1, Fault::Write);
            world.access(0, Access::WRITE).unwrap();
        }
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                // One fault: what must be tried again is tried again by the
                // next access, which is a model of its own.
                if world.access(0, Access::READ).is_err()
                    && world.fault(&mut cache, 0) != Mapped::Retry
                {
                    let _ = world.access(0, Access::READ);
                }
                drop(cache);
            })
        };
        world.mmu.begin_invalidation(Gfn(0)..Gfn(1));
        world.zap(0, 1);
        let new = world.user.map(hva(0), 1, MapOptions::WRITABLE);
        world.mmu.end_invalidation();
        thread.join().unwrap();
        let reached = world.reaches(0, Access::READ);
        assert_ne!(reached, Some(old), "twin: the old page is mapped");
        if let Some(reached) = reached {
            assert_eq!(reached, new);
        }
        assert!(
            world.access(0, Access::READ) != Ok(old),
            "the old page is in a TLB"
        );
        world.check_books();
        world.end();
    });
}

/// Proves TDP-8.
#[test]
fn a_page_that_was_found_before_the_host_changed_it_is_not_mapped_after() {
    change_against_fault(false);
}

/// Proves TDP-8, TDP-6.
#[test]
fn a_page_that_was_mapped_is_out_of_reach_when_the_host_has_changed_it() {
    change_against_fault(true);
}

/// Proves TDP-8.
#[test]
fn a_page_that_the_host_has_back_is_mapped_without_the_check_under_the_lock_twin() {
    must_fail(Part::InvalidationCheck, "the host has back", || {
        change_against_fault(false);
    });
}

/// Proves TDP-8.
#[test]
fn a_page_that_the_host_has_back_is_mapped_without_the_read_barrier_twin() {
    must_fail(Part::SnapshotBarrier, "the host has back", || {
        change_against_fault(false);
    });
}

/// The host puts another page behind one half of what a large leaf would map,
/// while a fault at the other half installs that leaf.
fn change_against_a_large_fault() {
    explore(|| {
        let world = World::usual();
        let old = world.page(1);
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                world.fault(&mut cache, 0);
                drop(cache);
            })
        };
        world.mmu.begin_invalidation(Gfn(1)..Gfn(2));
        world.zap(1, 2);
        world.user.map(hva(1), 1, MapOptions::WRITABLE);
        world.mmu.end_invalidation();
        thread.join().unwrap();
        let reached = world.reaches(1, Access::READ);
        assert_ne!(reached, Some(old), "twin: the old page is mapped");
        world.check_books();
        world.end();
    });
}

/// Proves TDP-8, TDP-12.
#[test]
fn a_large_leaf_is_not_mapped_while_the_host_changes_a_part_of_it() {
    change_against_a_large_fault();
}

/// Proves TDP-8, TDP-12.
#[test]
fn a_large_leaf_maps_a_page_that_changed_without_the_check_under_the_lock_twin() {
    must_fail(
        Part::InvalidationCheck,
        "twin: the old page is mapped",
        change_against_a_large_fault,
    );
}
