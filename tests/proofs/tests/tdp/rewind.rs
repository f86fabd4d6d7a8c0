//! At every moment of an operation hardware sees the mapping from before it or
//! the one from after it, and nothing else.
use std::cell::RefCell;

use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::walk::Yielding::Allowed;
use waterbear_hal::{Gfn, Level, Pfn};
use waterbear_mock::hw::{Access, EntryMemory, FaultKind, Walker};
use waterbear_mock::{Event, History, MapOptions, Moment};
use waterbear_proofs::{Guest, Rig};

use crate::support::{Case, on_both_hosts, on_each, peek, root};

const L2: u64 = 512;
const L3: u64 = 512 * 512;

/// What hardware sees at a frame: where it leads and what it allows.
type Seen = Option<(Pfn, Access)>;

/// A moment that remembers which entries were read. An event at any other entry cannot change what
/// the reader found, so most moments need no walk of their own.
struct Footprint<'a> {
    moment: Moment<'a>,
    read: RefCell<Vec<(Pfn, usize)>>,
}

impl EntryMemory for Footprint<'_> {
    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        self.read.borrow_mut().push((table, index));
        self.moment.read_entry(table, index)
    }
}

/// What hardware sees at a frame, and the entries that say so.
#[track_caller]
fn see(walker: &Walker, moment: Moment<'_>, top: Pfn, gfn: u64) -> (Seen, Vec<(Pfn, usize)>) {
    let read = RefCell::default();
    let memory = Footprint { moment, read };
    let seen = match peek(walker, &memory, top, gfn) {
        Ok(found) => Some((found.pfn, found.allows)),
        Err(fault) => {
            let kind = fault.kind;
            assert_eq!(kind, FaultKind::NotPresent, "{gfn:#x}: {fault:?}");
            None
        }
    };
    (seen, memory.read.into_inner())
}

/// Checks every moment at every sampled frame.
#[track_caller]
fn assert_two_states<const N: bool>(rig: &Rig<N>, top: Pfn, history: &History, gfns: &[u64]) {
    for &gfn in gfns {
        let (before, mut read) = see(&rig.walker, history.first(), top, gfn);
        let (after, _) = see(&rig.walker, history.last(), top, gfn);
        let mut changed = false;
        for moment in history.moments() {
            let concerned = match moment.event() {
                None => false,
                Some(Event::Alloc { table } | Event::Free { table }) => {
                    read.iter().any(|&(at, _)| at == table)
                }
                Some(Event::Write { table, index, .. } | Event::Hardware { table, index, .. }) => {
                    read.contains(&(table, index))
                }
            };
            if !concerned {
                continue;
            }
            let seen;
            (seen, read) = see(&rig.walker, moment, top, gfn);
            assert!(
                seen == before || seen == after,
                "{gfn:#x} at moment {} is {seen:?}, before {before:?}, after {after:?}: {:?}",
                moment.number(),
                moment.event()
            );
            // Once it has changed it does not change back.
            changed |= seen != before;
            assert!(!changed || seen == after, "{gfn:#x} came back");
        }
        assert!(changed || before == after, "{gfn:#x} changed unseen");
    }
}

/// Frames that the guest has touched; the last ones are in small pages.
const TOUCHED: &[u64] = if cfg!(miri) {
    &[3, L3 + 1, 2 * L3]
} else {
    &[
        3,
        L3 - 1,
        L3 + 1,
        L3 + 3 * L2,
        2 * L3,
        2 * L3 + L2 - 1,
        2 * L3 + L2,
    ]
};

/// Memory that is mapped here and there in large and small pieces.
fn mixed<const N: bool>(rig: &Rig<N>, index: u32) -> Guest<'_, N> {
    rig.memory(0, 0, L3, Level::L3);
    rig.memory(1, L3, 4 * L2, Level::L2);
    rig.memory(2, 2 * L3, 2 * L2, Level::L1);
    let mut guest = rig.guest(index);
    for &gfn in TOUCHED {
        guest.write(gfn);
    }
    guest
}

/// Takes the memory away again.
fn clear<const N: bool>(rig: &Rig<N>) {
    for id in 0..3 {
        rig.slot(id, 0, 0, SlotFlags::empty()).unwrap();
    }
}

const SAMPLES: &[u64] = if cfg!(miri) {
    &[0, 3, L3 + 1, L3 + L2, 2 * L3, 2 * L3 + L2]
} else {
    &[
        0,
        3,
        L2,
        L3 - 1,
        L3,
        L3 + 1,
        L3 + L2 - 1,
        L3 + L2,
        L3 + 3 * L2,
        L3 + 4 * L2 - 1,
        2 * L3,
        2 * L3 + 1,
        2 * L3 + L2 - 1,
        2 * L3 + L2,
        2 * L3 + 2 * L2 - 1,
        3 * L3,
    ]
};

/// Proves TDP-2, TDP-12.
#[test]
fn mapping_shows_nothing_or_the_page() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let mut guest = mixed(rig, 0);
        let top = root(&guest);
        for gfn in [L3 + L2, 2 * L3 + 1, 3 * L3] {
            let (_, history) = rig.host.record(|| guest.access(gfn, Access::READ));
            let samples: Vec<u64> = SAMPLES.iter().copied().filter(|&at| at != 3 * L3).collect();
            assert_two_states(rig, top, &history, &samples);
            assert!(history.writes().count() > 0);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-5, TDP-12.
#[test]
fn splitting_never_shows_a_hole() {
    on_each::<true>(|_, rig| {
        // Miri: one way, one large leaf.
        let pages = if cfg!(miri) { L2 } else { 4 * L2 };
        let often = if cfg!(miri) { 64 } else { 1 };
        for contention in [0, often].into_iter().skip(usize::from(cfg!(miri))) {
            let guest = mixed(rig, u32::from(contention != 0));
            let top = root(&guest);
            rig.host.contend_every(contention);
            let range = Gfn(L3)..Gfn(L3 + pages);
            let (done, history) = rig.host.record(|| {
                let vm = &rig.vm;
                vm.mmu()
                    .split_range(vm.vcpus(), &(), SpaceId::NORMAL, range)
            });
            rig.host.contend_every(0);
            assert_eq!(done, Ok(()));
            assert_two_states(rig, top, &history, SAMPLES);
            for &gfn in SAMPLES {
                let seen = |moment| peek(&rig.walker, &moment, top, gfn).map(|t| (t.pfn, t.allows));
                assert_eq!(seen(history.first()).ok(), seen(history.last()).ok());
            }
            assert!(history.writes().count() > pages as usize / 4);
            clear(rig);
        }
    });
}

/// Proves TDP-5, TDP-12.
#[test]
fn a_large_leaf_takes_the_place_of_tables_at_once() {
    on_each::<true>(|_, rig| {
        let mut guest = mixed(rig, 0);
        rig.slot(1, L3, 4 * L2, SlotFlags::LOG_DIRTY).unwrap();
        let all: Vec<u64> = (0..if cfg!(miri) { 5 } else { L2 })
            .map(|i| L3 + i)
            .collect();
        for &gfn in &all {
            guest.write(gfn);
        }
        let top = root(&guest);
        let off = SlotFlags::empty();
        let (done, history) = rig.host.record(|| rig.slot(1, L3, 4 * L2, off));
        assert_eq!(done, Ok(()));
        assert_two_states(rig, top, &history, SAMPLES);
        assert_two_states(rig, top, &history, &all[..5]);
        let small = TOUCHED.iter().filter(|&&gfn| gfn >= 2 * L3).count();
        assert_eq!(rig.vm.mmu().mapped(Level::L1), small as i64);
    });
}

/// Proves TDP-4, TDP-7.
#[test]
fn a_zap_shows_the_page_or_nothing() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let ranges = [(L3 + 1, L3 + 2), (0, 1), (L3, 2 * L3 + L2 + 1), (0, 3 * L3)];
        let mut index = 0..;
        for (first, end) in ranges.into_iter().skip(if cfg!(miri) { 3 } else { 0 }) {
            for contention in [0, if cfg!(miri) { 64 } else { 1 }] {
                let mut guest = mixed(rig, index.next().unwrap());
                guest.read(3);
                let top = root(&guest);
                rig.host.contend_every(contention);
                let vm = &rig.vm;
                let range = Gfn(first)..Gfn(end);
                let ((), history) = rig.host.record(|| {
                    vm.mmu()
                        .zap(vm.vcpus(), &(), SpaceId::NORMAL, range, Allowed);
                });
                rig.host.contend_every(0);
                assert_two_states(rig, top, &history, SAMPLES);
                clear(rig);
            }
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-10, TDP-13.
#[test]
fn write_protection_takes_w_and_nothing_else() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let guest = mixed(rig, 0);
        let top = root(&guest);
        for (id, base, pages) in [(0, 0, L3), (1, L3, 4 * L2), (2, 2 * L3, 2 * L2)] {
            let on = SlotFlags::LOG_DIRTY;
            let (done, history) = rig.host.record(|| rig.slot(id, base, pages, on));
            assert_eq!(done, Ok(()));
            assert_two_states(rig, top, &history, SAMPLES);
            for &gfn in SAMPLES {
                let seen = |moment| peek(&rig.walker, &moment, top, gfn).map(|t| t.pfn).ok();
                assert_eq!(seen(history.first()), seen(history.last()), "{gfn:#x}");
            }
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-9, TDP-3, TDP-1.
#[test]
fn a_root_that_is_emptied_loses_page_by_page_and_frees_no_table_that_is_linked() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let guest = mixed(rig, 0);
        let held = guest.mmu.root().unwrap().clone();
        let top = held.pfn();
        rig.host.contend_every(if cfg!(miri) { 64 } else { 3 });
        let ((), history) = rig
            .host
            .record(|| rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]));
        rig.host.contend_every(0);
        assert_two_states(rig, top, &history, SAMPLES);
        for &gfn in SAMPLES {
            assert!(peek(&rig.walker, &history.last(), top, gfn).is_err());
        }
        // Parallel removal: nothing in a table that was taken out is put back.
        let mut writes = std::collections::HashMap::new();
        for event in history.writes() {
            if let Event::Write {
                table, index, new, ..
            } = event
            {
                let last = writes.insert((table, index), new);
                assert!(
                    last.is_none_or(|last| last == 0 && new != 0) || new == 0 || new == 1 << 62
                );
            }
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-8, TDP-6.
#[test]
fn a_host_change_shows_the_old_page_nothing_or_the_new_one_in_this_order() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let mut guest = mixed(rig, 0);
        let top = root(&guest);
        let gfn = 2 * L3;
        let old = rig.backing(Gfn(gfn)).unwrap();
        let (new, history) = rig.host.record(|| {
            rig.host_change(gfn, 1, || rig.back(gfn, 1, MapOptions::WRITABLE));
            guest.write(gfn)
        });
        let mut seen: Vec<Option<Pfn>> = history
            .moments()
            .map(|moment| peek(&rig.walker, &moment, top, gfn).ok().map(|t| t.pfn))
            .collect();
        seen.dedup();
        assert_eq!(seen, [Some(old), None, Some(new)]);
    }
    on_both_hosts!(test);
}
