//! Removing mappings against walks that hold no lock.

use waterbear_core::tdp::FastFault;
use waterbear_core::tdp::mmio::MmioHit;
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::hw::Access;

use crate::tdp_world::{Fault, SPACE, World};
use crate::twins::{explore, explore_bounded, must_fail};

/// Somebody removes a table while `walk` goes through it.
fn zap_against(walk: fn(&World)) {
    explore_bounded(4, move || {
        let world = World::usual();
        world.map(0, Level::L1, Fault::Read);
        let thread = world.spawn(walk);
        world.zap(0, 2);
        thread.join().unwrap();
        world.check_books();
        assert_eq!(world.census(), (0, [0, 0]));
        world.end();
    });
}

fn fast_fault(world: &World) {
    let _: FastFault = world.fast_write(0);
}

fn is_young(world: &World) {
    let _: bool = world.mmu.is_young(SPACE, Gfn(0)..Gfn(2));
}

fn mmio_hit(world: &World) {
    let hit = world.mmu.mmio_hit(&world.root, Gfn(1), Some(0));
    assert_eq!(hit, MmioHit::Stale);
}

/// Proves TDP-1.
#[test]
fn the_fast_path_never_touches_a_freed_table() {
    zap_against(fast_fault);
}

/// Proves TDP-1.
#[test]
fn a_look_at_ages_never_touches_a_freed_table() {
    zap_against(is_young);
}

/// Proves TDP-1.
#[test]
fn an_mmio_exit_never_touches_a_freed_table() {
    zap_against(mmio_hit);
}

/// Proves TDP-1.
#[test]
fn the_fast_path_touches_a_freed_table_without_a_grace_period_twin() {
    must_fail(Part::TableGracePeriod, "use after free", || {
        zap_against(fast_fault);
    });
}

/// Proves TDP-1.
#[test]
fn a_look_at_ages_touches_a_freed_table_without_a_grace_period_twin() {
    must_fail(Part::TableGracePeriod, "use after free", || {
        zap_against(is_young);
    });
}

/// Proves TDP-1.
#[test]
fn an_mmio_exit_touches_a_freed_table_without_a_grace_period_twin() {
    must_fail(Part::TableGracePeriod, "use after free", || {
        zap_against(mmio_hit);
    });
}

/// The guest's CPU has cached a table that somebody removes, and walks it.
fn zap_against_the_guest() {
    explore(|| {
        let world = World::usual();
        world.map(0, Level::L1, Fault::Read);
        world.map(1, Level::L1, Fault::Read);
        // Caches the table on the way to both frames.
        world.access(0, Access::READ).unwrap();
        let thread = world.spawn(|world| world.access(1, Access::READ).is_ok());
        world.zap(0, 2);
        assert!(
            world.access(0, Access::READ).is_err() && world.access(1, Access::READ).is_err(),
            "twin: the guest reaches what was removed"
        );
        thread.join().unwrap();
        world.end();
    });
}

/// Proves TDP-1, TDP-6.
#[test]
fn hardware_never_walks_a_freed_table() {
    zap_against_the_guest();
}

/// Proves TDP-1, TDP-6.
#[test]
fn hardware_walks_a_freed_table_without_a_grace_period_twin() {
    must_fail(
        Part::TableGracePeriod,
        "use after free: hardware walks",
        zap_against_the_guest,
    );
}

/// The fast path gives W back to a leaf that somebody removes.
fn zap_against_the_fast_path() {
    explore(|| {
        let world = World::usual();
        world.map(0, Level::L1, Fault::Read);
        let thread = world.spawn(fast_fault);
        // One of two frames: the leaf goes, the table stays.
        world.zap(0, 1);
        thread.join().unwrap();
        assert_eq!(
            world.reaches(0, Access::READ),
            None,
            "twin: a mapping came back"
        );
        world.check_books();
        world.end();
    });
}

/// Proves TDP-11.
#[test]
fn the_fast_path_does_not_bring_back_what_was_removed() {
    zap_against_the_fast_path();
}

/// Proves TDP-11.
#[test]
fn the_fast_path_brings_back_what_was_removed_without_compare_exchange_twin() {
    must_fail(
        Part::FastPathCas,
        "twin: a mapping came back",
        zap_against_the_fast_path,
    );
}
