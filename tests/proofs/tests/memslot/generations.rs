//! The number of a set, and cached MMIO entries.
use std::cell::RefCell;
use std::collections::HashMap;

use waterbear_core::memslot::{Generation, MMIO_GENERATION_BITS, SpaceId};

use crate::vm::{Event, Hooks, LOG_DIRTY, Vm, gone, region};

const NORMAL: SpaceId = SpaceId::NORMAL;
const SMM: SpaceId = SpaceId::SMM;

/// Proves MS-9.
#[test]
fn every_publish_changes_the_generation_of_its_space_and_of_no_other() {
    let vm = Vm::new();
    let mut seen: Vec<Generation> = vec![vm.generation(NORMAL), vm.generation(SMM)];
    assert_ne!(seen[0], seen[1]);
    for (space, id) in [(NORMAL, 0), (SMM, 1), (NORMAL, 0), (SMM, 0)] {
        for update in [
            region(id, 0, 0, 4, 0, 0),
            region(id, 0, 0, 4, 0, LOG_DIRTY),
            region(id, 0, 8, 4, 0, LOG_DIRTY),
            gone(id, 0),
        ] {
            let others = SpaceId::ALL.map(|other| vm.generation(other));
            let done = vm.set(update);
            if id == space.index() as u32 {
                done.expect("legal");
            } else {
                continue;
            }
            for other in SpaceId::ALL {
                if other == space {
                    assert!(!seen.contains(&vm.generation(other)), "used before");
                } else {
                    assert_eq!(vm.generation(other), others[other.index()]);
                }
            }
            seen.push(vm.generation(space));
        }
    }
    vm.finish();
}

/// Proves MS-9, BUG-8.
#[test]
fn while_an_update_runs_no_generation_can_be_cached() {
    let vm = Vm::new();
    let cacheable = |space: SpaceId| vm.slots.read().set(space).mmio_generation();
    assert!(cacheable(NORMAL).is_some());
    for (update, fails) in [
        (region(0, 0, 0, 4, 0, 0), false),
        (region(0, 0, 8, 4, 0, 0), true),
        (region(0, 0, 8, 4, 0, 0), false),
        (region(0, 0, 8, 4, 0, LOG_DIRTY), false),
        (gone(0, 0), true),
        (gone(0, 0), false),
    ] {
        let before = vm.generation(NORMAL);
        let hooks = Hooks::default();
        *hooks.on_zap.borrow_mut() = Box::new(|_| {
            assert_eq!(cacheable(NORMAL), None, "between two publishes");
            assert!(vm.generation(NORMAL).in_progress());
            assert!(cacheable(SMM).is_some(), "nothing happens there");
            if fails {
                vm.host.fail_nth_alloc(1);
            }
        });
        *hooks.on_commit.borrow_mut() = Box::new(|_| {
            assert!(cacheable(NORMAL).is_some(), "readers of old sets are gone");
        });
        let result = vm.slots.set_region(&hooks, update);
        assert_eq!(result.is_err(), fails);
        let after = vm.generation(NORMAL);
        assert!(!after.in_progress());
        assert_ne!(after, before, "a set that came back is a new publish");
    }
    vm.finish();
}

/// Proves MS-9, BUG-8.
#[test]
#[cfg_attr(miri, ignore = "too many updates for Miri")]
fn an_mmio_entry_that_survived_a_wrap_is_never_believed() {
    // Entries that some vCPU has cached: what they keep of the generation, and
    // the number of the update that they belong to.
    let cached: RefCell<HashMap<u32, u64>> = RefCell::default();
    let vm = Vm::new();
    let wraps = RefCell::new(0);
    let hooks = Hooks::default();
    *hooks.on_wrap.borrow_mut() = Box::new(|space| {
        let now = vm.slots.read().set(space).mmio_generation();
        assert_eq!(now, None, "no entry is believed before the zap");
        cached.borrow_mut().clear();
        *wraps.borrow_mut() += 1;
    });
    let rounds = (1u64 << MMIO_GENERATION_BITS) / 2 + 100;
    for round in 0..rounds {
        // The second space stands still: its entries stay good until a wrap
        // anywhere zaps them.
        let space = u32::from(round == 50);
        let update = match (round == 50, round % 2) {
            (true, _) => region(space, 0, 0, 4, 0, 0),
            (_, 0) => region(0, 0, 0, 4, 0, 0),
            _ => region(0, 0, 0, 4, 0, LOG_DIRTY),
        };
        let before = vm.generation(NORMAL);
        vm.slots.set_region(&hooks, update).expect("legal");
        if space == 0 && vm.generation(NORMAL) != before {
            let now = vm.generation(NORMAL).mmio().expect("no update runs");
            assert!(now < 1 << MMIO_GENERATION_BITS);
            let old = cached.borrow_mut().insert(now, round);
            assert_eq!(old, None, "an entry of update {old:?} looks new at {round}");
        }
    }
    assert_eq!(*wraps.borrow(), 2);
    let events = hooks.events.borrow();
    let told = events.iter().filter(|e| matches!(e, Event::Wrapped(_)));
    assert_eq!(told.count(), 2);
    drop(events);
    drop(hooks);
    vm.finish();
}

/// Proves MS-9.
#[test]
fn the_two_spaces_never_share_what_an_mmio_entry_keeps() {
    let vm = Vm::new();
    let mut seen = [vec![], vec![]];
    for round in 0..if cfg!(miri) { 10 } else { 200 } {
        for space in SpaceId::ALL {
            let flags = round % 2;
            let number = space.index() as u32;
            vm.set(region(number, 0, 0, 4, 0, flags)).expect("legal");
            let now = vm.generation(space).mmio().expect("no update runs");
            seen[space.index()].push(now);
        }
    }
    let [normal, smm] = seen;
    assert!(normal.iter().all(|generation| !smm.contains(generation)));
    vm.finish();
}

/// Proves MS-9.
#[test]
#[cfg_attr(miri, ignore = "too many updates for Miri")]
fn every_vm_wraps_once_soon_after_it_is_made() {
    let vm = Vm::new();
    let mut wrapped = Vec::new();
    for round in 0..100 {
        let (result, events) = vm.events(region(1, 0, 0, 4, 0, round % 2));
        result.expect("legal");
        if events.contains(&Event::Wrapped(SMM)) {
            wrapped.push(round);
        }
    }
    assert_eq!(wrapped.len(), 1);
    vm.finish();
}
