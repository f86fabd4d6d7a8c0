//! Several vCPUs run while everything else happens.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::spte::LeafRights;
use waterbear_core::tdp::{Goal, Mapped, TableCache};
use waterbear_hal::{Gfn, Level, Pfn};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Reached, Rig};

use crate::support::{Case, Watch, cases, end, mapping, root};

/// A sequence of numbers that looks random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

const ROUNDS: u64 = if cfg!(miri) { 4 } else { 24 };
const PAGES: u64 = 1024;

/// A case for each kind of paging and way to find writes: these tests are slow.
fn few() -> impl Iterator<Item = Case> {
    cases()
        .into_iter()
        .filter(|case| case.root == Level::L4 || cfg!(miri))
}

fn run<const N: bool>(case: Case, test: impl Fn(Case, &Rig<N>)) {
    let rig = case.rig::<N>();
    test(case, &rig);
    end(rig);
}

/// Guests on CPUs of their own read and write until `main` returns. The
/// simulated machine panics if one of them reaches a page that the host has
/// back.
fn while_guests_run<const N: bool>(rig: &Rig<N>, main: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guests: Vec<_> = (0..if cfg!(miri) { 1 } else { 2 })
            .map(|index| {
                let over = &over;
                scope.spawn(move || {
                    rig.host.run_on(index + 1, || {
                        let mut guest = rig.guest(index);
                        let mut numbers = Numbers(0x9e37_79b9 + u64::from(index));
                        while !over.load(Ordering::Relaxed) {
                            let gfn = numbers.below(PAGES);
                            let access = match numbers.below(3) {
                                0 => Access::READ,
                                _ => Access::WRITE,
                            };
                            match guest.access(gfn, access) {
                                Ok(Reached::Page(pfn)) => assert!(pfn.0 != 0),
                                Ok(Reached::Device) => {}
                                other => panic!("{other:?}"),
                            }
                            // Few cores; the main thread is to come along.
                            std::thread::yield_now();
                        }
                    });
                })
            })
            .collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(main));
        over.store(true, Ordering::Relaxed);
        for guest in guests {
            guest.join().unwrap();
        }
        result.unwrap();
    });
}

/// Proves TDP-6, TDP-8, TDP-9, TDP-14.
#[test]
fn no_guest_reaches_a_page_that_the_host_has_back() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, PAGES, Level::L2);
        rig.host.contend_every(10);
        while_guests_run(rig, || {
            let mut numbers = Numbers(7);
            for _ in 0..ROUNDS {
                let first = numbers.below(PAGES);
                let pages = 1 + numbers.below((PAGES - first).min(64));
                match numbers.below(6) {
                    0 | 1 => {
                        let options = MapOptions::WRITABLE.up_to(Level::L2);
                        rig.host_change(first, pages, || rig.back(first, pages, options));
                    }
                    2 => {
                        rig.vm
                            .age(Rig::<N>::hva(first)..Rig::<N>::hva(first + pages));
                    }
                    3 => {
                        rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
                        rig.slot(0, 0, PAGES, SlotFlags::empty()).unwrap();
                    }
                    4 => rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]),
                    _ => {
                        rig.slot(0, 0, PAGES, SlotFlags::LOG_DIRTY).unwrap();
                        rig.dirty_log(0, PAGES);
                        rig.slot(0, 0, PAGES, SlotFlags::empty()).unwrap();
                    }
                }
            }
        });
        rig.host.contend_every(0);
    }
    for case in few() {
        run::<true>(case, test::<true>);
        run::<false>(case, test::<false>);
    }
}

/// Proves TDP-13, TDP-10, BUG-6.
#[test]
fn every_write_of_a_running_guest_is_in_some_log() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        rig.memory(0, 0, PAGES, Level::L2);
        rig.slot(0, 0, PAGES, SlotFlags::LOG_DIRTY).unwrap();
        rig.host.contend_every(10);
        // How many writes each page had when it was last copied.
        let mut copied: HashMap<Pfn, u64> = HashMap::new();
        let mut copy = |gfns: Vec<u64>| {
            for gfn in gfns {
                let page = rig.backing(Gfn(gfn)).unwrap();
                copied.insert(page, rig.host.data_writes(page));
            }
        };
        while_guests_run(rig, || {
            let mut numbers = Numbers(11);
            for _ in 0..ROUNDS {
                let first = numbers.below(PAGES);
                let pages = 1 + numbers.below((PAGES - first).min(64));
                let hvas = Rig::<N>::hva(first)..Rig::<N>::hva(first + pages);
                match numbers.below(5) {
                    // The page stays the same, only its mapping goes.
                    0 => rig.host_change(first, pages, || ()),
                    1 => {
                        rig.vm.age(hvas);
                    }
                    2 => {
                        let mut words = vec![0; (PAGES / 64) as usize];
                        rig.vm
                            .read_dirty_log(SpaceId::NORMAL, 0, &mut words, false)
                            .unwrap();
                        rig.vm
                            .clear_dirty_log(SpaceId::NORMAL, 0, 0, PAGES, &words)
                            .unwrap();
                        let is_set =
                            |page: &u64| words[(page / 64) as usize] >> (page % 64) & 1 != 0;
                        copy((0..PAGES).filter(is_set).collect());
                    }
                    _ => copy(rig.dirty_log(0, PAGES)),
                }
            }
        });
        rig.host.contend_every(0);
        copy(rig.dirty_log(0, PAGES));
        for gfn in 0..PAGES {
            let page = rig.backing(Gfn(gfn)).unwrap();
            let last = copied.get(&page).copied().unwrap_or(0);
            assert_eq!(rig.host.data_writes(page), last, "{gfn:#x} {case:?}");
        }
    }
    for case in few() {
        run::<true>(case, test::<true>);
        run::<false>(case, test::<false>);
    }
}

/// Proves TDP-3, TDP-4.
#[test]
fn a_table_is_not_taken_apart_while_somebody_holds_one_of_its_entries_frozen() {
    for case in cases() {
        let rig = case.rig::<true>();
        rig.memory(0, 0, 512, Level::L2);
        {
            let slots = rig.vm.memslots().read();
            let slot = slots.set(SpaceId::NORMAL).by_gfn(Gfn(0)).unwrap();
            slot.arch.block(Gfn(0)).unwrap();
        }
        let mut guest = rig.guest(0);
        guest.write(3);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 1);
        let top = guest.mmu.root().unwrap();
        let all = LeafRights {
            write: true,
            mmu_writable: true,
            host_writable: true,
            dirty: true,
            uncached: false,
        };
        let large = rig.backing(Gfn(0)).unwrap();
        let other = rig
            .user
            .map(Rig::<true>::hva(0x1000), 1, MapOptions::WRITABLE);
        let install = |tlb: &dyn Fn(&mut TableCache<_>, Goal) -> Mapped, pfn, level| {
            let mut cache = TableCache::new();
            cache.top_up(&rig.host).unwrap();
            let goal = Goal {
                gfn: Gfn(3),
                pfn,
                level,
                rights: all,
                write: true,
                exec: false,
            };
            tlb(&mut cache, goal)
        };
        let mmu = rig.vm.mmu();
        let plain = |cache: &mut TableCache<_>, goal: Goal| {
            let sinks = (rig.vm.vcpus(), &());
            let now = mmu.snapshot();
            mmu.install(sinks, top, cache, now, || goal).0
        };
        std::thread::scope(|scope| {
            // The entry is frozen and its flush under way: somebody else puts
            // a large leaf in place of the whole table.
            let hook = || {
                scope.spawn(|| install(&plain, large.add(3), Level::L2));
                let is_large = || mapping(&rig, top.pfn(), 3).map(|t| t.level) == Some(Level::L2);
                while !is_large() {
                    std::thread::yield_now();
                }
                for _ in 0..100 {
                    std::thread::yield_now();
                }
            };
            let watch = Watch::at_flush(&rig, &hook);
            let watched = |cache: &mut TableCache<_>, goal: Goal| {
                let now = mmu.snapshot();
                let sinks = (&watch, &());
                mmu.install(sinks, top, cache, now, || goal).0
            };
            install(&watched, other, Level::L1);
        });
        assert_eq!(mapping(&rig, root(&guest), 3).unwrap().level, Level::L2);
        assert_eq!(mmu.mapped(Level::L1), 0, "{case:?}");
        assert_eq!(mmu.mapped(Level::L2), 1);
        drop(guest);
        end(rig);
    }
}
