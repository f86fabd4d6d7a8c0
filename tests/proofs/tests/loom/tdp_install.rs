//! Faults against faults.

use waterbear_hal::Level;
use waterbear_hal::sync::twin::Part;
use waterbear_mock::hw::Access;

use waterbear_core::tdp::Mapped;

use crate::tdp_world::{Fault, World};
use crate::twins::{explore_bounded, must_fail};

/// Two faults at two frames, or at one, that share a table which is missing.
fn two_faults(first: u64, second: u64) {
    explore_bounded(4, move || {
        let world = World::usual();
        let fault = |gfn| {
            let mut cache = world.cache();
            move |world: &World| {
                let page = world.page(gfn);
                let mapped = world.install(&mut cache, (gfn, Level::L1), page, Fault::Write);
                drop(cache);
                mapped
            }
        };
        let (one, other) = (fault(first), fault(second));
        let thread = world.spawn(other);
        let mapped = [one(&world), thread.join().unwrap()];
        world.check_books();
        for gfn in [first, second] {
            let reached = world.reaches(gfn, Access::WRITE);
            assert_eq!(reached, Some(world.page(gfn)), "twin: a mapping was lost");
        }
        let installed = mapped.iter().filter(|&&m| m == Mapped::Installed).count();
        let wanted = if first == second { 1 } else { 2 };
        assert_eq!(installed, wanted, "{mapped:?}");
        assert!(!mapped.contains(&Mapped::Retry));
        world.end();
    });
}

/// Proves TDP-2.
#[test]
fn two_faults_at_one_frame_link_one_table_and_map_one_leaf() {
    two_faults(0, 0);
}

/// Proves TDP-2.
#[test]
fn two_faults_that_miss_the_same_table_link_one_and_lose_no_leaf() {
    two_faults(0, 1);
}

/// Proves TDP-2.
#[test]
fn two_faults_at_one_frame_lose_a_table_without_compare_exchange_twin() {
    must_fail(Part::InstallCas, "twin: a page table was lost", || {
        two_faults(0, 0)
    });
}

/// Proves TDP-2.
#[test]
fn two_faults_that_miss_the_same_table_lose_one_without_compare_exchange_twin() {
    must_fail(Part::InstallCas, "twin: a page table was lost", || {
        two_faults(0, 1)
    });
}

/// A read and a write fault at one frame, in any order: afterwards the guest
/// may write.
fn a_read_and_a_write() {
    explore_bounded(4, || {
        let world = World::usual();
        // The table is there: only the leaf is fought over.
        world.map(1, Level::L1, Fault::Read);
        let mut cache = world.cache();
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                let mapped = world.install(&mut cache, (0, Level::L1), world.page(0), Fault::Read);
                drop(cache);
                mapped
            })
        };
        world.install(&mut cache, (0, Level::L1), world.page(0), Fault::Write);
        drop(cache);
        thread.join().unwrap();
        let reached = world.reaches(0, Access::WRITE);
        assert_eq!(
            reached,
            Some(world.page(0)),
            "twin: a write fault was undone"
        );
        world.end();
    });
}

/// Proves TDP-2.
#[test]
fn a_read_fault_does_not_undo_a_write_fault() {
    a_read_and_a_write();
}

/// Proves TDP-2.
#[test]
fn a_read_fault_undoes_a_write_fault_without_compare_exchange_twin() {
    must_fail(
        Part::InstallCas,
        "twin: a write fault was undone",
        a_read_and_a_write,
    );
}
