//! The checks of the simulated machine that other tests rely on are live on
//! the paths that these tests go.
use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use waterbear_core::memslot::SpaceId;
use waterbear_core::spte::LeafRights;
use waterbear_core::tdp::walk::Yielding::{Allowed, Forbidden};
use waterbear_core::tdp::{Goal, Mapped, TableCache};
use waterbear_hal::{Cpu, Gfn, Level, Memory, Pfn, RcuGuard};
use waterbear_mock::Event;
use waterbear_mock::hw::{Access, EntryMemory, Start};
use waterbear_proofs::Rig;

use crate::support::{Case, Look, Watch, on_both_hosts, root};

/// Whether `f` panics.
fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// Proves TDP-16.
#[test]
fn an_allocation_or_a_sleep_under_the_lock_would_be_caught() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        let host = &rig.host;
        let hook = || {
            assert!(panics(|| host.alloc_table()));
            assert!(panics(|| host.alloc_bytes(Layout::new::<u64>())));
            assert!(panics(|| TableCache::new().top_up(host)));
            assert!(panics(|| host.yield_now()));
        };
        let watch = Watch::at_flush(rig, &hook);
        let range = Gfn(3)..Gfn(4);
        rig.vm
            .mmu()
            .zap(&watch, &(), SpaceId::NORMAL, range, Forbidden);
        assert_eq!(watch.count(), 1, "the hook ran");
        assert!(!panics(|| TableCache::new().top_up(host)), "outside it may");
    }
    on_both_hosts!(test);
}

/// Proves TDP-16, TDP-2.
#[test]
fn a_fault_takes_tables_from_its_cache_and_nowhere_else() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        assert!(guest.access(0x9999, Access::READ).is_ok());
        rig.vm.mmu().zap(
            rig.vm.vcpus(),
            &(),
            SpaceId::NORMAL,
            Gfn(0)..case.paging.format(case.root).end(),
            Allowed,
        );
        let top = guest.mmu.root().unwrap();
        let allocations = rig.host.allocations();
        let mut cache = TableCache::new();
        let goal = || Goal {
            gfn: Gfn(3),
            pfn: rig.backing(Gfn(3)).unwrap(),
            level: Level::L1,
            rights: LeafRights {
                write: false,
                mmu_writable: false,
                host_writable: false,
                dirty: false,
                uncached: false,
            },
            write: false,
            exec: false,
        };
        let (vm, mmu) = (&rig.vm, rig.vm.mmu());
        let now = mmu.snapshot();
        let sinks = (vm.vcpus(), &());
        let (mapped, _) = mmu.install(sinks, top, &mut cache, now, goal);
        assert_eq!(mapped, Mapped::Retry);
        assert_eq!(rig.host.allocations(), allocations);
        assert_eq!(mmu.mapped(Level::L1), 0);
        // With as many tables as there are levels below the root it succeeds.
        cache.top_up(&rig.host).unwrap();
        let allocations = rig.host.allocations();
        let (mapped, level) = mmu.install(sinks, top, &mut cache, now, goal);
        assert_eq!((mapped, level), (Mapped::Installed, Level::L1));
        assert_eq!(rig.host.allocations(), allocations);
        if !N {
            // The mapping owns a reference now; take it as a fault does.
            use waterbear_hal::User;
            let hva = Rig::<N>::hva(3);
            let _page = rig.host.resolve(&rig.user, hva, false).unwrap();
        }
    }
    on_both_hosts!(test);
}

/// The table that the last link on the way to `gfn` leads to.
fn lowest<const N: bool>(rig: &Rig<N>, top: Pfn, gfn: u64) -> Start {
    let mut last = rig.walker.root(top);
    let found = rig.walker.walk(
        &Look(&rig.host),
        last,
        Gfn(gfn).gpa(),
        Access::READ,
        &mut |table| last = table,
    );
    assert!(found.is_ok());
    last
}

/// Proves TDP-1.
#[test]
fn a_table_stays_for_whoever_may_still_read_it_and_is_poisoned_afterwards() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 512, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        let table = lowest(rig, root(&guest), 3).table;
        let (opened, is_open) = mpsc::channel();
        let (close, closing) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let host = &rig.host;
            let reader = scope.spawn(move || {
                let guard = RcuGuard::new(host);
                opened.send(()).unwrap();
                closing.recv().unwrap();
                // Unlinked long since, and readable until the section ends.
                let value = Look(host).read_entry(table, 3);
                drop(guard);
                value
            });
            is_open.recv().unwrap();
            let vm = &rig.vm;
            let range = Gfn(0)..Gfn(512);
            vm.mmu()
                .zap(vm.vcpus(), &(), SpaceId::NORMAL, range, Forbidden);
            assert_eq!(rig.host.live().deferred_tables, 1);
            close.send(()).unwrap();
            assert_eq!(reader.join().unwrap(), 0);
        });
        assert_eq!(rig.host.live().deferred_tables, 0);
        assert!(panics(|| Look(&rig.host).read_entry(table, 3)));
        assert_ne!(lowest_after(rig, &mut guest), None);
    }
    /// The guest goes on with other tables.
    fn lowest_after<const N: bool>(
        rig: &Rig<N>,
        guest: &mut waterbear_proofs::Guest<'_, N>,
    ) -> Option<Pfn> {
        guest.write(3);
        Some(lowest(rig, root(guest), 3).table)
    }
    on_both_hosts!(test);
}

/// Proves TDP-1, TDP-6.
#[test]
fn no_table_is_freed_before_the_flush_that_its_removal_calls_for() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 2048, Level::L1);
        let mut guest = rig.guest(0);
        for _ in 0..2 {
            for gfn in [3, 600, 1200] {
                guest.write(gfn);
            }
            let tables: Vec<_> = [3, 600, 1200]
                .map(|gfn| lowest(rig, root(&guest), gfn).table)
                .into();
            let flushes = std::cell::Cell::new(0);
            let hook = || {
                // All three are gone by the first flush, and it is due to
                // them: they are readable still. Later ones are for tables
                // further up.
                if flushes.replace(flushes.get() + 1) == 0 {
                    for &table in &tables {
                        assert_eq!(Look(&rig.host).read_entry(table, 3), 0);
                    }
                }
            };
            let watch = Watch::at_flush(rig, &hook);
            let ((), history) = rig.host.record(|| {
                let range = Gfn(0)..Gfn(2048);
                rig.vm
                    .mmu()
                    .zap(&watch, &(), SpaceId::NORMAL, range, Allowed);
                let _ = rig.host.live();
            });
            assert!(flushes.get() > 0);
            for &table in &tables {
                let freed = history.events().contains(&Event::Free { table });
                assert!(freed, "{table:?} is freed in the end");
            }
        }
    }
    on_both_hosts!(test);
}
