//! Dirty bits that hardware sets while the core changes the entry.

use waterbear_core::tdp::{DirtyTracking, Mapped};
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::hw::Access;
use waterbear_proofs::Paging;

use crate::tdp_world::{FRAMES, Fault, SPACE, World};
use crate::twins::{explore, must_fail};

/// The guest writes to a page that is mapped with W, clean or dirty, while
/// `change` runs. No fault: if W is gone, nothing is written.
fn change_against_a_write(dirty: bool, level: Level, change: fn(&World, &mut u64)) {
    explore(move || {
        let world = World::new(Paging::Ept, DirtyTracking::DirtyBit);
        let mut copy = 0;
        world.map(0, level, Fault::ReadWritable);
        if dirty {
            world.access(0, Access::WRITE).unwrap();
        }
        let thread = world.spawn(|world| {
            let _ = world.access(0, Access::WRITE);
        });
        change(&world, &mut copy);
        thread.join().unwrap();
        world.check_copy(copy);
        world.check_books();
        world.end();
    });
}

fn collect(world: &World, copy: &mut u64) {
    world.collect(copy);
}

fn age(world: &World, _copy: &mut u64) {
    let frames = Gfn(0)..Gfn(FRAMES);
    world.mmu.age(&world.tlbs, &world.log, SPACE, frames);
}

fn zap_leaf(world: &World, _copy: &mut u64) {
    world.zap(0, 1);
}

fn zap_table(world: &World, _copy: &mut u64) {
    world.zap(0, 2);
}

fn split(world: &World, _copy: &mut u64) {
    let frames = Gfn(0)..Gfn(FRAMES);
    let split = world
        .mmu
        .split_range(&world.tlbs, &world.log, SPACE, frames);
    split.expect("memory");
}

fn collapse(world: &World, _copy: &mut u64) {
    let mut cache = world.cache();
    let mapped = world.install(&mut cache, (0, Level::L2), world.page(0), Fault::Read);
    assert_eq!(mapped, Mapped::Installed);
}

/// Proves TDP-10, TDP-13, BUG-6.
#[test]
fn a_dirty_bit_is_not_lost_to_a_collection() {
    change_against_a_write(false, Level::L1, collect);
}

/// Proves TDP-10, TDP-13.
#[test]
fn a_write_to_a_dirty_page_is_not_lost_to_a_collection() {
    change_against_a_write(true, Level::L1, collect);
}

/// Proves TDP-10, BUG-6.
#[test]
fn a_dirty_bit_is_not_lost_to_ageing() {
    change_against_a_write(false, Level::L1, age);
}

/// Proves TDP-10, BUG-6.
#[test]
fn a_dirty_bit_is_not_lost_when_the_leaf_is_removed() {
    change_against_a_write(false, Level::L1, zap_leaf);
}

/// Proves TDP-10, BUG-6.
#[test]
fn a_dirty_bit_is_not_lost_when_the_table_is_removed() {
    change_against_a_write(false, Level::L1, zap_table);
}

/// Proves TDP-10, TDP-4.
#[test]
fn a_dirty_bit_is_not_lost_when_a_large_leaf_replaces_the_table() {
    change_against_a_write(false, Level::L1, collapse);
}

/// Proves TDP-10, TDP-12.
#[test]
fn a_dirty_bit_is_not_lost_to_a_split() {
    change_against_a_write(false, Level::L2, split);
}

/// Proves TDP-10, BUG-6.
#[test]
fn a_write_to_a_dirty_page_is_lost_without_the_flush_twin() {
    must_fail(Part::WriteProtectFlush, "twin: a write was lost", || {
        change_against_a_write(true, Level::L1, collect);
    });
}

/// Proves TDP-10, BUG-6.
#[test]
fn a_dirty_bit_is_lost_to_ageing_without_compare_exchange_twin() {
    must_fail(Part::ChangeCas, "twin: a write was lost", || {
        change_against_a_write(false, Level::L1, age);
    });
}

/// Proves TDP-10, BUG-6.
#[test]
fn a_dirty_bit_is_lost_with_its_leaf_without_compare_exchange_twin() {
    must_fail(Part::ChangeCas, "twin: a write was lost", || {
        change_against_a_write(false, Level::L1, zap_leaf);
    });
}
