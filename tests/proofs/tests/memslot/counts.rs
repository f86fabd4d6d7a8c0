//! Huge mappings, tracked pages, dirty bits.
use std::sync::atomic::Ordering::Relaxed;

use waterbear_core::Error;
use waterbear_core::memslot::dirty::bits;
use waterbear_core::memslot::{DirtyBitmap, SlotArch, SpaceId};
use waterbear_hal::{Gfn, Hva, Level};
use waterbear_mock::MockHost;

use crate::vm::{Hooks, LOG_DIRTY, Vm, machine, region};

const LARGE: u64 = 512;
const HUGE: u64 = 512 * 512;

fn arch(host: &MockHost, base: u64, npages: u64, page: u64) -> SlotArch<MockHost> {
    SlotArch::new(host, Gfn(base), npages, Hva(page << 12)).expect("memory")
}

/// Whether a large page around the frame is wholly inside the slot and aligned
/// alike.
fn fits(gfn: u64, base: u64, npages: u64, page: u64, pages: u64) -> bool {
    let start = gfn / pages * pages;
    start >= base && start + pages <= base + npages && base % pages == page % pages
}

/// Proves TDP-12.
#[test]
fn a_huge_mapping_is_allowed_only_wholly_inside_the_slot_and_aligned_alike() {
    let host: MockHost = machine();
    let bases: &[u64] = if cfg!(miri) {
        &[511]
    } else {
        &[0, 1, 511, 512, 513, 1024]
    };
    for &base in bases {
        for npages in [1, 2, 511, 512, 513, 1023, 1024, 1025, 1536] {
            for page in [base, base + 1, base + 256, base + LARGE, base + 3 * LARGE] {
                let arch = arch(&host, base, npages, page);
                let probes = [0, 1, 510, 511, 512, 513, 1023, 1024, 1025, 1535, 1536, 2560];
                for gfn in probes.into_iter().chain([base, base + npages - 1]) {
                    let inside = base <= gfn && gfn < base + npages;
                    assert_eq!(arch.allows(Level::L1, Gfn(gfn)), inside);
                    let large = inside && fits(gfn, base, npages, page, LARGE);
                    let at = format!("{base} {npages} {page} {gfn}");
                    assert_eq!(arch.allows(Level::L2, Gfn(gfn)), large, "{at}");
                    assert!(!arch.allows(Level::L3, Gfn(gfn)));
                    assert!(!arch.allows(Level::L4, Gfn(gfn)));
                }
            }
        }
    }
    for (base, npages, page) in [
        (0, HUGE, 0),
        (0, HUGE, LARGE),
        (0, 2 * HUGE - 1, HUGE),
        (LARGE, 2 * HUGE, LARGE),
        (HUGE - 1, HUGE + 1, 5 * HUGE - 1),
        (HUGE + 1, 2 * HUGE, 1),
    ]
    .into_iter()
    .take(if cfg!(miri) { 1 } else { 6 })
    {
        let arch = arch(&host, base, npages, page);
        for gfn in [
            0,
            LARGE,
            HUGE - 1,
            HUGE,
            2 * HUGE - 1,
            2 * HUGE,
            3 * HUGE - 1,
        ] {
            let inside = base <= gfn && gfn < base + npages;
            for (level, pages) in [(Level::L2, LARGE), (Level::L3, HUGE)] {
                let expected = inside && fits(gfn, base, npages, page, pages);
                let at = format!("{base} {npages} {page} {gfn} {level:?}");
                assert_eq!(arch.allows(level, Gfn(gfn)), expected, "{at}");
            }
        }
    }
    host.assert_no_leaks();
}

/// Proves TDP-12, BUG-12.
#[test]
fn counts_at_and_beyond_the_edges_of_a_slot_touch_no_other_large_page() {
    let host: MockHost = machine();
    let shapes = [(3, 5), (500, 24), (0, 512), (512, 1024), (511, 1026)];
    for (base, npages) in shapes.into_iter().take(if cfg!(miri) { 2 } else { 5 }) {
        let arch = arch(&host, base, npages, base);
        let end = base + npages;
        let state = || -> Vec<bool> {
            let frames = base.saturating_sub(600)..end + 600;
            frames.map(|gfn| arch.allows(Level::L2, Gfn(gfn))).collect()
        };
        let free = state();
        for gfn in [end, end + 1, end + 511, end + LARGE, end + HUGE, u64::MAX]
            .into_iter()
            .chain(base.checked_sub(1))
        {
            assert_eq!(arch.block(Gfn(gfn)), Err(Error::Invalid));
            assert_eq!(arch.unblock(Gfn(gfn)), Err(Error::Invalid));
        }
        assert_eq!(state(), free);
        for gfn in [base, base + npages / 2, end - 1] {
            let before = state();
            arch.block(Gfn(gfn)).expect("inside");
            for probe in base..end {
                let same = probe / LARGE == gfn / LARGE;
                let was = before[(probe - base.saturating_sub(600)) as usize];
                assert_eq!(arch.allows(Level::L2, Gfn(probe)), was && !same);
            }
            arch.unblock(Gfn(gfn)).expect("blocked");
            assert_eq!(state(), before);
        }
    }
    host.assert_no_leaks();
}

/// Proves TDP-12.
#[test]
fn every_reason_is_taken_back_before_a_huge_mapping_is_allowed_again() {
    let host: MockHost = machine();
    let arch = arch(&host, 0, HUGE, 0);
    let allowed = || {
        (
            arch.allows(Level::L2, Gfn(700)),
            arch.allows(Level::L3, Gfn(700)),
        )
    };
    assert_eq!(arch.unblock(Gfn(700)), Err(Error::Invalid));
    assert_eq!(allowed(), (true, true));
    arch.block(Gfn(600)).expect("inside");
    arch.block(Gfn(601)).expect("inside");
    assert_eq!(allowed(), (false, false));
    arch.unblock(Gfn(601)).expect("blocked");
    assert_eq!(allowed(), (false, false));
    // Another large page of the same huge one.
    arch.block(Gfn(5000)).expect("inside");
    arch.unblock(Gfn(600)).expect("blocked");
    assert_eq!(allowed(), (true, false));
    // Nothing to take back at this level, although there is at the next: then
    // neither changes.
    assert_eq!(arch.unblock(Gfn(700)), Err(Error::Invalid));
    assert_eq!(allowed(), (true, false));
    arch.unblock(Gfn(5000)).expect("blocked");
    assert_eq!(allowed(), (true, true));
    drop(arch);
    host.assert_no_leaks();
}

/// Proves TDP-12.
#[test]
fn a_permanent_reason_is_never_taken_back() {
    let host: MockHost = machine();
    for (npages, page) in [(700, 0), (1024, 1)] {
        let arch = arch(&host, 0, npages, page);
        let gfn = Gfn(600);
        assert!(!arch.allows(Level::L2, gfn));
        assert_eq!(arch.unblock(gfn), Err(Error::Invalid));
        arch.block(gfn).expect("inside");
        arch.unblock(gfn).expect("blocked");
        assert_eq!(arch.unblock(gfn), Err(Error::Invalid));
        assert!(!arch.allows(Level::L2, gfn));
    }
    host.assert_no_leaks();
}

/// Proves MS-5.
#[test]
fn track_counts_exist_for_each_frame_of_the_slot_and_no_other() {
    let host: MockHost = machine();
    let arch = arch(&host, 10, 6, 0);
    assert!(!arch.tracks());
    assert!(arch.track_count(Gfn(10)).is_none());
    host.fail_nth_alloc(1);
    assert_eq!(arch.activate_track(), Err(Error::NoMemory));
    assert!(!arch.tracks());
    arch.activate_track().expect("memory");
    for gfn in 10..16 {
        let count = arch.track_count(Gfn(gfn)).expect("inside");
        assert_eq!(count.swap(gfn as u16, Relaxed), 0);
    }
    // A second activation changes nothing.
    arch.activate_track().expect("there already");
    let counts = (10..16).map(|gfn| arch.track_count(Gfn(gfn)).map(|c| c.load(Relaxed)));
    assert!(counts.eq((10..16).map(Some)));
    for gfn in [0, 9, 16, 17, u64::MAX] {
        assert!(arch.track_count(Gfn(gfn)).is_none());
    }
    drop(arch);
    host.assert_no_leaks();
}

/// Proves MS-5.
#[test]
fn two_threads_that_activate_at_once_leave_one_array() {
    let host: MockHost = machine();
    for _ in 0..if cfg!(miri) { 3 } else { 200 } {
        let arch = arch(&host, 0, 64, 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    arch.activate_track().expect("memory");
                    let count = arch.track_count(Gfn(5)).expect("there");
                    count.fetch_add(1, Relaxed);
                });
            }
        });
        let count = arch.track_count(Gfn(5)).expect("there");
        assert_eq!(count.load(Relaxed), 2, "both used the same array");
    }
    host.assert_no_leaks();
}

/// Proves TDP-13.
#[test]
fn dirty_bits_are_marked_taken_and_cleared_one_by_one() {
    let host: MockHost = machine();
    for npages in [1, 63, 64, 65, 128, 200] {
        let bitmap = DirtyBitmap::new(&host, npages, false).expect("memory");
        let words = npages.div_ceil(64) as usize;
        assert_eq!((bitmap.len(), bitmap.npages()), (words, npages));
        for offset in 0..npages {
            assert!(!bitmap.is_marked(offset));
            bitmap.mark(offset);
            assert!(bitmap.is_marked(offset));
            assert_eq!(bitmap.peek((offset / 64) as usize), 1 << (offset % 64));
            assert_eq!(bitmap.take((offset / 64) as usize), 1 << (offset % 64));
        }
        // Beyond the end there is nothing to mark.
        for offset in [npages, npages + 1, npages + 64, u64::MAX] {
            bitmap.mark(offset);
            assert!(!bitmap.is_marked(offset));
        }
        assert!((0..words + 2).all(|index| bitmap.take(index) == 0));

        (0..npages).for_each(|offset| bitmap.mark(offset));
        let mask = 0x5555_5555_5555_5555;
        let all = DirtyBitmap::new(&host, npages, true).expect("memory");
        for index in 0..words {
            let full = all.peek(index);
            assert_eq!(bitmap.peek(index), full, "all of the slot, no more");
            assert_eq!(bitmap.clear(index, mask), full & mask);
            assert_eq!(bitmap.peek(index), full & !mask);
            bitmap.put_back(index, u64::MAX);
            assert_eq!(bitmap.take(index), full);
        }
        let marked: u32 = (0..words).map(|index| all.peek(index).count_ones()).sum();
        assert_eq!(u64::from(marked), npages);
    }
    for word in [0, 1, 1 << 63, 0xf0f0, u64::MAX] {
        let expected: Vec<u32> = (0..64).filter(|bit| word & (1 << bit) != 0).collect();
        assert_eq!(bits(word).collect::<Vec<_>>(), expected);
    }
    host.assert_no_leaks();
}

/// Proves TDP-13.
#[test]
fn a_log_begins_empty_or_full_and_belongs_to_the_slot_while_it_runs() {
    for starts_set in [false, true] {
        let vm = Vm::new();
        let hooks = Hooks {
            dirty_log_starts_set: starts_set,
            ..Hooks::default()
        };
        let set = |flags| {
            let request = region(0, 0, 0x40, 70, 0, flags);
            vm.slots.set_region(&hooks, request).expect("legal");
        };
        let words = || {
            let read = vm.slots.read();
            let slot = read.set(SpaceId::NORMAL).by_id(0).expect("there");
            assert_eq!(slot.logs_dirty(), slot.dirty.is_some());
            slot.mark_dirty(Gfn(0x41));
            slot.mark_dirty(Gfn(0x40 + 70));
            let dirty = slot.dirty.as_ref()?;
            Some((dirty.take(0), dirty.take(1)))
        };
        let first = if starts_set { (u64::MAX, 0x3f) } else { (2, 0) };
        set(LOG_DIRTY);
        assert_eq!(words(), Some(first));
        assert_eq!(words(), Some((2, 0)));
        set(0);
        assert_eq!(words(), None);
        set(LOG_DIRTY);
        assert_eq!(words(), Some(first), "a new log");
        drop(hooks);
        vm.finish();
    }
}

/// Proves TDP-13.
#[test]
fn a_page_marked_while_bits_are_taken_is_never_lost() {
    let host: MockHost = machine();
    let bitmap = DirtyBitmap::new(&host, 64, false).expect("memory");
    let rounds = if cfg!(miri) { 50 } else { 20_000 };
    let mut seen = 0;
    std::thread::scope(|scope| {
        let marker = scope.spawn(|| {
            for round in 0..rounds {
                bitmap.mark(round % 64);
                // Until it is taken, so that every mark counts once.
                while bitmap.is_marked(round % 64) {
                    std::thread::yield_now();
                }
            }
        });
        while !marker.is_finished() || bitmap.peek(0) != 0 {
            let taken = bitmap.take(0) | bitmap.clear(0, u64::MAX);
            seen += u64::from(taken.count_ones());
            std::thread::yield_now();
        }
    });
    assert_eq!(seen, rounds);
    drop(bitmap);
    host.assert_no_leaks();
}

#[test]
fn the_next_word_with_a_mark_is_found_from_everywhere() {
    let host: MockHost = machine();
    for len in [1_usize, 7, 8, 9, 16, 23] {
        for marked in 0..len {
            let bitmap = DirtyBitmap::new(&host, len as u64 * 64, false).expect("memory");
            bitmap.mark(marked as u64 * 64 + 5);
            for from in 0..len + 2 {
                let beyond = from.max(len);
                let wanted = if from <= marked { marked } else { beyond };
                assert_eq!(bitmap.next_marked(from), wanted, "{from} of {len}");
            }
        }
    }
}
