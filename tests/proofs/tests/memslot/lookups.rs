//! Three indexes against a naive model; the largest set.
use std::collections::BTreeMap;

use waterbear_core::Error;
use waterbear_core::memslot::{MAX_SLOTS, Region, SpaceId};
use waterbear_hal::{Gfn, Hva};

use crate::vm::{READONLY, Vm, gone, hva_ids, region};

const NORMAL: SpaceId = SpaceId::NORMAL;

/// Numbers that look random; the same seed gives the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Slots as a list: space and id, then base, size, host page and flags.
#[derive(Default)]
struct Naive(BTreeMap<(u32, u32), (u64, u64, u64, u32)>);

impl Naive {
    /// What a legal-looking request does.
    fn set(&mut self, r: Region) -> Result<(), Error> {
        let key = (r.space, r.id);
        let new = (
            r.guest_phys_addr >> 12,
            r.memory_size >> 12,
            r.userspace_addr >> 12,
            r.flags,
        );
        let old = self.0.get(&key).copied();
        if new.1 == 0 {
            return self.0.remove(&key).map(|_| ()).ok_or(Error::Invalid);
        }
        let keeps = |old: (u64, u64, u64, u32)| {
            old.1 == new.1 && old.2 == new.2 && (old.3 ^ new.3) & READONLY == 0
        };
        if old.is_some_and(|old| !keeps(old)) {
            return Err(Error::Invalid);
        }
        for (other, slot) in &self.0 {
            let same_space = other.0 == key.0 && *other != key;
            if same_space && slot.0 < new.0 + new.1 && new.0 < slot.0 + slot.1 {
                return Err(Error::Exists);
            }
        }
        self.0.insert(key, new);
        Ok(())
    }

    fn by_gfn(&self, space: u32, gfn: u64) -> Option<u32> {
        let mut slots = self.0.iter().filter(|(key, _)| key.0 == space);
        let hit = slots.find(|(_, slot)| slot.0 <= gfn && gfn < slot.0 + slot.1)?;
        Some(hit.0.1)
    }

    fn by_hva(&self, space: u32, pages: std::ops::Range<u64>) -> Vec<u32> {
        let slots = self.0.iter().filter(|(key, _)| key.0 == space);
        slots
            .filter(|(_, slot)| slot.2 < pages.end && pages.start < slot.2 + slot.1)
            .map(|(key, _)| key.1)
            .collect()
    }
}

const GFNS: u64 = 48;
const PAGES: u64 = 24;
const IDS: u64 = 10;

/// A request that is often legal: it takes up what an existing slot has.
fn some_request(random: &mut Random, naive: &Naive) -> Region {
    let (space, id) = (random.below(2) as u32, random.below(IDS) as u32);
    let flags = random.below(4) as u32;
    let gfn = random.below(GFNS);
    match (naive.0.get(&(space, id)), random.below(8)) {
        (_, 0) => gone(space, id),
        (Some(slot), 1..=4) => {
            let gfn = if flags & 1 == 0 { slot.0 } else { gfn };
            let readonly = slot.3 & READONLY;
            let log = random.below(2) as u32;
            region(space, id, gfn, slot.1, slot.2, readonly | log)
        }
        _ => {
            let (npages, hva) = (1 + random.below(9), random.below(PAGES));
            region(space, id, gfn, npages, hva, flags)
        }
    }
}

/// Proves MS-7, MS-8, MS-11.
#[test]
fn after_random_updates_every_lookup_agrees_with_a_naive_model() {
    let (seeds, rounds) = if cfg!(miri) { (1, 12) } else { (40, 500) };
    for seed in 0..seeds {
        let (vm, mut naive, mut random) = (Vm::new(), Naive::default(), Random(seed));
        for round in 0..rounds {
            let request = some_request(&mut random, &naive);
            let expected = naive.set(request);
            let at = format!("seed {seed}, round {round}: {request:?}");
            assert_eq!(vm.set(request), expected, "{at}");
            let dump = vm.dump();
            for space in SpaceId::ALL {
                let number = space.index() as u32;
                let read = vm.slots.read();
                let set = read.set(space);
                for gfn in 0..GFNS + 10 {
                    let found = set.by_gfn(Gfn(gfn)).map(|slot| slot.id);
                    assert_eq!(found, naive.by_gfn(number, gfn), "{at}, GFN {gfn}");
                }
                for id in 0..IDS as u32 + 1 {
                    let found = set.by_id(id).map(|slot| {
                        let hva = slot.hva.0 >> 12;
                        (slot.base.0, slot.npages, hva, slot.flags.bits())
                    });
                    let expected = naive.0.get(&(number, id)).copied();
                    assert_eq!(found, expected, "{at}, id {id}");
                }
                for _ in 0..20 {
                    let start = random.below(PAGES + 12);
                    let pages = start..start + random.below(12);
                    let mut expected = naive.by_hva(number, pages.clone());
                    if pages.is_empty() {
                        expected.clear();
                    }
                    assert_eq!(hva_ids(set, pages.clone()), expected, "{at}, {pages:?}");
                }
                let bases: Vec<_> = dump.slots[space.index()].iter().map(|s| s.base).collect();
                assert!(bases.is_sorted());
            }
        }
        vm.finish();
    }
}

/// Proves MS-7.
#[test]
fn gaps_and_everything_below_the_lowest_slot_find_nothing() {
    let vm = Vm::new();
    let found = |gfn: u64| {
        let read = vm.slots.read();
        read.set(NORMAL).by_gfn(Gfn(gfn)).map(|slot| slot.id)
    };
    assert_eq!(found(0), None);
    vm.set(region(0, 4, 10, 5, 0, 0)).expect("create");
    vm.set(region(0, 2, 20, 5, 0, 0)).expect("create");
    vm.set(region(0, 3, 25, 5, 0, 0)).expect("create");
    for gfn in (0..10).chain(15..20).chain(30..40) {
        assert_eq!(found(gfn), None, "{gfn}");
    }
    for (id, frames) in [(4, 10..15), (2, 20..25), (3, 25..30)] {
        assert!(frames.into_iter().all(|gfn| found(gfn) == Some(id)));
    }
    assert_eq!(found(u64::MAX), None);
    vm.finish();
}

/// Proves MS-11.
#[test]
fn frames_addresses_and_their_ranges_convert_into_each_other() {
    let vm = Vm::new();
    vm.set(region(0, 0, 100, 10, 500, 0)).expect("create");
    let read = vm.slots.read();
    let slot = read.set(NORMAL).by_id(0).expect("there");
    for gfn in 95..115 {
        let inside = (100..110).contains(&gfn);
        assert_eq!(slot.contains(Gfn(gfn)), inside);
        let hva = inside.then(|| Hva((gfn + 400) << 12));
        assert_eq!(slot.hva_of(Gfn(gfn)), hva);
    }
    // Ranges of bytes touch every page that has one of them.
    for start in (499 << 12..511 << 12).step_by(0x333) {
        for bytes in [0, 1, 0xfff, 0x1000, 0x1001, 0x5000, 0xf000] {
            let touched: Vec<u64> = (100..110)
                .filter(|gfn| {
                    let page = (gfn + 400) << 12;
                    start < page + 4096 && page < start + bytes && bytes > 0
                })
                .collect();
            let frames = slot.gfns_of(&(Hva(start)..Hva(start + bytes)));
            let frames: Vec<u64> = frames.map_or(vec![], |f| (f.start.0..f.end.0).collect());
            assert_eq!(frames, touched, "{start:#x} {bytes:#x}");
        }
    }
    drop(read);
    vm.finish();
}

/// Proves MS-7, MS-11.
#[test]
fn the_largest_set_is_made_searched_and_deleted() {
    let count = if cfg!(miri) { 10 } else { MAX_SLOTS as u32 };
    let vm = Vm::new();
    // Ids, frames and host addresses each in another order; pairs of slots
    // share host memory.
    let place = |id: u32| u64::from(id) * 7919 % 65_521;
    let host = |id: u32| u64::from(id / 2) * 104_729 % 65_521;
    for id in 0..count {
        let made = vm.set(region(0, id, 4 * place(id), 2, 4 * host(id), 0));
        assert_eq!(made, Ok(()), "{id}");
    }
    let over = region(0, MAX_SLOTS as u32, 4 * 65_521, 2, 0, 0);
    assert_eq!(vm.set(over), Err(Error::Invalid));
    {
        let read = vm.slots.read();
        let set = read.set(NORMAL);
        assert_eq!(set.len(), count as usize);
        for id in 0..count {
            let base = 4 * place(id);
            let at = |gfn| set.by_gfn(Gfn(gfn)).map(|slot| slot.id);
            assert_eq!([at(base), at(base + 1)], [Some(id), Some(id)]);
            assert_eq!([at(base + 2), at(base + 3)], [None, None]);
            assert_eq!(set.by_id(id).map(|slot| slot.base), Some(Gfn(base)));
            let start = Hva((4 * host(id)) << 12);
            let mut hits = set.by_hva(start..Hva(start.0 + 1));
            let mut ids: Vec<_> = hits.by_ref().map(|slot| slot.id).collect();
            ids.sort_unstable();
            let pair = id & !1..(id & !1) + 2;
            assert_eq!(ids, pair.collect::<Vec<_>>());
            // Twice the depth of a balanced tree, per hit.
            let steps = hits.steps();
            assert!(steps <= 2 * 2 * 16, "{steps} steps");
        }
    }
    for id in 0..count {
        // From both ends, so that no order is special.
        let id = if id % 2 == 0 {
            id / 2
        } else {
            count - 1 - id / 2
        };
        vm.set(gone(0, id)).expect("delete");
        let read = vm.slots.read();
        assert!(read.set(NORMAL).by_gfn(Gfn(4 * place(id))).is_none());
    }
    assert_eq!(vm.slots.lock().total_pages(), 0);
    vm.finish();
}

/// Proves MS-11.
#[test]
fn a_search_by_address_skips_slots_that_end_too_early() {
    // One slot covers all addresses, a thousand short ones lie inside it: the
    // worst case for an index that only knows where ranges begin.
    let count: u32 = if cfg!(miri) { 10 } else { 1000 };
    let vm = Vm::new();
    vm.set(region(0, 0, 1 << 20, 1 << 14, 0, 0))
        .expect("create");
    for id in 1..=count {
        let at = u64::from(id);
        vm.set(region(0, id, 2 * at, 1, 16 * at, 0))
            .expect("create");
    }
    let read = vm.slots.read();
    let set = read.set(NORMAL);
    for id in 1..=count {
        let at = 16 * u64::from(id);
        assert_eq!(hva_ids(set, at..at + 1), [0, id]);
        assert_eq!(hva_ids(set, at + 1..at + 2), [0]);
        let mut hits = set.by_hva(Hva((at + 1) << 12)..Hva((at + 2) << 12));
        assert_eq!(hits.by_ref().count(), 1);
        assert!(hits.steps() <= 4 * 10, "{}", hits.steps());
    }
    drop(read);
    vm.finish();
}
