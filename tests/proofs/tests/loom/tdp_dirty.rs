//! Collecting the dirty log by write protection, against writes.
//!
//! User space has a copy of the guest's page. Each collection that finds the
//! page in the log copies it anew. A collection runs beside a write of the
//! guest; if after another one, in peace, copy and page differ, a write was
//! lost.

use waterbear_core::tdp::{DirtyTracking, FastFault, Mapped, TableCache};
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MockHost;
use waterbear_mock::hw::Access;
use waterbear_proofs::Paging;

use crate::tdp_world::{FRAMES, Fault, SPACE, World};
use crate::twins::{explore, must_fail};

impl World {
    /// Collects the log as `Vm::read_dirty_log` does, and copies the page at
    /// frame 0, of which only the number of writes is known, if it is logged.
    pub fn collect(&self, copy: &mut u64) {
        let frames = Gfn(0)..Gfn(FRAMES);
        self.mmu.harvest(&self.tlbs, &self.log, SPACE, frames);
        let mut taken = 0;
        let mut words = Some(0).into_iter();
        self.mmu.clean_words(&self.tlbs, &(), SPACE, || {
            let index = words.next()?;
            if self.log.0.peek(index) != 0 {
                taken = self.log.0.take(index);
            }
            (taken != 0).then_some((Gfn(0), taken))
        });
        if taken & 1 != 0 {
            *copy = self.host.data_read(self.page(0));
        }
    }

    /// Collects in peace, and finds the copy equal to the page.
    #[track_caller]
    pub fn check_copy(&self, mut copy: u64) {
        self.collect(&mut copy);
        let writes = self.host.data_writes(self.page(0));
        assert_eq!(copy, writes, "twin: a write was lost");
    }
}

/// How a write fault is handled.
type Handler = fn(&World, &mut TableCache<MockHost>);

fn fast(world: &World, _cache: &mut TableCache<MockHost>) {
    assert_eq!(world.fast_write(0), FastFault::Fixed);
}

fn locked(world: &World, cache: &mut TableCache<MockHost>) {
    let mapped = world.install(cache, (0, Level::L1), world.page(0), Fault::Write);
    assert_ne!(mapped, Mapped::Retry);
}

/// The guest writes, through a fault if need be, while the log is collected.
/// `hot`: it wrote before, so the mapping with W is in its TLB and the page in
/// the log.
fn collect_against_a_write(hot: bool, handler: Handler) {
    explore(move || {
        let world = World::new(Paging::Ept, DirtyTracking::WriteProtect);
        let mut copy = 0;
        let fault = if hot { Fault::Write } else { Fault::Read };
        world.map(0, Level::L1, fault);
        if hot {
            world.access(0, Access::WRITE).unwrap();
        }
        let thread = {
            let mut cache = world.cache();
            world.spawn(move |world| {
                // W may be taken away again between fault and write, once.
                for _ in 0..3 {
                    if world.access(0, Access::WRITE).is_ok() {
                        break;
                    }
                    handler(world, &mut cache);
                }
                drop(cache);
            })
        };
        world.collect(&mut copy);
        thread.join().unwrap();
        assert_eq!(world.host.data_writes(world.page(0)), 1 + u64::from(hot));
        world.check_copy(copy);
        world.end();
    });
}

/// Proves TDP-13, TDP-11.
#[test]
fn a_write_through_the_fast_path_is_not_lost_to_a_collection() {
    collect_against_a_write(false, fast);
}

/// Proves TDP-13.
#[test]
fn a_write_through_the_lock_is_not_lost_to_a_collection() {
    collect_against_a_write(false, locked);
}

/// Proves TDP-13, TDP-10.
#[test]
fn a_write_through_the_tlb_is_not_lost_to_a_collection() {
    collect_against_a_write(true, fast);
}

/// The guest writes to a page that was collected, through the fast path, while
/// the host ages it. Without accessed bits that takes every permission away,
/// and the fast path gives them back.
fn age_against_a_write() {
    explore(|| {
        let world = World::new(Paging::EptPlain, DirtyTracking::WriteProtect);
        world.map(0, Level::L1, Fault::Read);
        let thread = world.spawn(|world| {
            for _ in 0..3 {
                if world.access(0, Access::WRITE).is_ok() {
                    break;
                }
                fast(world, &mut TableCache::new());
            }
        });
        let frames = Gfn(0)..Gfn(FRAMES);
        world.mmu.age(&world.tlbs, &world.log, SPACE, frames);
        thread.join().unwrap();
        assert_eq!(
            world.host.data_writes(world.page(0)),
            1,
            "twin: the guest makes no progress"
        );
        world.check_copy(0);
        world.end();
    });
}

/// Proves TDP-11, TDP-14.
#[test]
fn a_write_through_the_fast_path_is_not_lost_to_ageing() {
    age_against_a_write();
}

/// Proves TDP-13.
#[test]
fn a_write_is_lost_if_the_fast_path_marks_before_it_gives_w_twin() {
    must_fail(Part::MarkAfterWrite, "twin: a write was lost", || {
        collect_against_a_write(false, fast);
    });
}

/// Proves TDP-13.
#[test]
fn a_write_is_lost_if_a_fault_marks_before_it_gives_w_twin() {
    must_fail(Part::MarkAfterWrite, "twin: a write was lost", || {
        collect_against_a_write(false, locked);
    });
}

/// Proves TDP-13, TDP-10.
#[test]
fn a_write_through_the_tlb_is_lost_without_the_flush_twin() {
    must_fail(Part::WriteProtectFlush, "twin: a write was lost", || {
        collect_against_a_write(true, fast);
    });
}
