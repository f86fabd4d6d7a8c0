//! The order of an update's steps, and who may run between them.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use waterbear_core::memslot::{Memslots, SpaceId};
use waterbear_hal::Gfn;
use waterbear_mock::Mock;

use crate::vm::{Event, GFN_END, Hooks, LOG_DIRTY, SlotDump, Vm, gone, machine, region};

const NORMAL: SpaceId = SpaceId::NORMAL;

/// Waits until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(50), "{what}");
        thread::yield_now();
    }
}

/// Gives other threads time to do what they must not do.
fn a_while() {
    thread::sleep(Duration::from_millis(20));
}

fn found(vm: &Vm, gfn: u64) -> Option<SlotDump> {
    let read = vm.slots.read();
    let slot = read.set(NORMAL).by_gfn(Gfn(gfn))?;
    Some(SlotDump::of(slot))
}

/// Proves MS-3.
#[test]
fn create_and_flags_publish_once_delete_and_move_twice_with_a_zap_between() {
    let vm = Vm::new();
    let publishes = |region| {
        let before = vm.generation(NORMAL).raw();
        let (result, events) = vm.events(region);
        result.expect("legal");
        let zaps = events.iter().filter(|e| matches!(e, Event::Zap(_)));
        let after = vm.generation(NORMAL).raw();
        ((after - before) / 2, zaps.count(), events.len())
    };
    assert_eq!(publishes(region(0, 0, 0, 4, 0, 0)), (1, 0, 1));
    assert_eq!(publishes(region(0, 0, 0, 4, 0, LOG_DIRTY)), (1, 0, 1));
    assert_eq!(publishes(region(0, 0, 8, 4, 0, LOG_DIRTY)), (2, 1, 2));
    assert_eq!(publishes(gone(0, 0)), (2, 1, 2));
    vm.finish();
}

/// Proves MS-3, MS-7.
#[test]
fn while_a_slot_is_zapped_every_lookup_finds_it_invalid() {
    let vm = Vm::new();
    vm.set(region(0, 1, 0x100, 8, 0x500, LOG_DIRTY))
        .expect("create");
    let original = found(&vm, 0x100).expect("there");
    for update in [region(0, 1, 0x200, 8, 0x500, LOG_DIRTY), gone(0, 1)] {
        let hooks = Hooks::default();
        *hooks.on_zap.borrow_mut() = Box::new(|zapped| {
            let read = vm.slots.read();
            let set = read.set(NORMAL);
            let base = Gfn(zapped.base);
            for slot in [
                set.by_gfn(base),
                set.by_id(1),
                set.by_hva(waterbear_hal::Hva(0x500_000)..waterbear_hal::Hva(0x500_001))
                    .next(),
            ] {
                let slot = SlotDump::of(slot.expect("still there"));
                assert_eq!(slot, zapped);
                assert!(slot.invalid);
            }
            assert!(set.by_gfn(Gfn(0x200)).is_none_or(|slot| slot.invalid));
            if base.0 == 0x100 {
                // The copy shares what belongs to the slot.
                assert_eq!(
                    zapped,
                    SlotDump {
                        invalid: true,
                        ..original.clone()
                    }
                );
            }
        });
        vm.slots.set_region(&hooks, update).expect("legal");
        assert_eq!(hooks.events.borrow().len(), 2);
    }
    vm.finish();
}

/// Proves MS-7, BUG-1.
#[test]
fn a_deleted_slot_is_never_found_again_however_often_it_was_used_last() {
    let vm = Vm::new();
    for id in 0..4 {
        let base = 0x10 * u64::from(id);
        vm.set(region(0, id, base, 8, 0x100 + base, 0))
            .expect("create");
    }
    for victim in [3, 0, 2, 1] {
        let base = 0x10 * u64::from(victim);
        for _ in 0..3 {
            assert_eq!(found(&vm, base + 3).map(|slot| slot.id), Some(victim));
        }
        vm.set(gone(0, victim)).expect("delete");
        let read = vm.slots.read();
        let set = read.set(NORMAL);
        assert!((base..base + 8).all(|gfn| set.by_gfn(Gfn(gfn)).is_none()));
        assert!(set.by_id(victim).is_none());
        assert_eq!(crate::vm::hva_ids(set, 0x100 + base..0x108 + base), []);
        assert!(set.iter().all(|slot| slot.id != victim));
    }
    vm.finish();
}

/// Proves MS-3.
#[test]
fn a_zap_waits_for_every_reader_that_saw_the_slot_valid() {
    let vm = Vm::new();
    vm.set(region(0, 0, 0, 4, 0, 0)).expect("create");
    let zapped = AtomicBool::new(false);
    let (opened, is_open) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let read = vm.slots.read();
            let slot = read.set(NORMAL).by_id(0).expect("there");
            assert!(!slot.invalid);
            opened.send(()).expect("listening");
            until("the INVALID copy is published", || {
                read.set(NORMAL).by_id(0).is_some_and(|slot| slot.invalid)
            });
            a_while();
            assert!(!zapped.load(SeqCst), "zapped under a reader");
            assert!(!slot.invalid, "a slot does not change");
        });
        is_open.recv().expect("open");
        let hooks = Hooks::default();
        *hooks.on_zap.borrow_mut() = Box::new(|_| zapped.store(true, SeqCst));
        vm.slots.set_region(&hooks, gone(0, 0)).expect("delete");
    });
    assert!(zapped.load(SeqCst));
    vm.finish();
}

/// Proves MS-2, MS-3.
#[test]
fn an_update_is_committed_after_every_reader_of_an_older_set_is_gone() {
    let vm = Vm::new();
    let committed = AtomicBool::new(false);
    let (opened, is_open) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let read = vm.slots.read();
            let before = read.set(NORMAL);
            opened.send(()).expect("listening");
            until("the new set is published", || {
                read.set(NORMAL).by_id(0).is_some()
            });
            a_while();
            assert!(!committed.load(SeqCst), "committed under a reader");
            assert!(before.is_empty(), "a set does not change");
        });
        is_open.recv().expect("open");
        let hooks = Hooks::default();
        *hooks.on_commit.borrow_mut() = Box::new(|_| committed.store(true, SeqCst));
        vm.slots
            .set_region(&hooks, region(0, 0, 0, 4, 0, 0))
            .expect("create");
    });
    assert!(committed.load(SeqCst));
    vm.finish();
}

/// Proves MS-1, MS-2.
#[test]
fn the_arch_lock_is_free_while_an_update_waits_for_readers() {
    let vm = Vm::new();
    let (opened, is_open) = channel();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _read = vm.slots.read();
            opened.send(()).expect("listening");
            until("activation, although this reads on", || done.load(SeqCst));
        });
        is_open.recv().expect("open");
        scope.spawn(|| vm.set(region(0, 0, 0, 4, 0, 0)).expect("create"));
        until("the new set is published", || found(&vm, 0).is_some());
        // The update has published and waits for the reader.
        vm.slots.activate_track().expect("memory");
        let read = vm.slots.read();
        let slot = read.set(NORMAL).by_id(0).expect("there");
        assert!(slot.arch.tracks());
        assert!(read.set(NORMAL).generation().in_progress());
        done.store(true, SeqCst);
    });
    vm.finish();
}

/// Proves MS-1, MS-3, MS-5.
#[test]
fn counts_that_are_activated_during_a_zap_are_there_when_the_slot_comes_back() {
    // The zap runs with `slots_arch_lock` dropped, or this would never end.
    for (update, fails) in [
        (region(0, 0, 64, 4, 0, 0), false),
        (region(0, 0, 64, 4, 0, 0), true),
        (gone(0, 0), false),
        (gone(0, 0), true),
    ] {
        let vm = Vm::new();
        vm.set(region(0, 0, 0, 4, 0, 0)).expect("create");
        vm.set(region(1, 1, 0, 4, 0, 0)).expect("create");
        let hooks = Hooks::default();
        *hooks.on_zap.borrow_mut() = Box::new(|_| {
            vm.slots.activate_track().expect("memory");
            if fails {
                vm.host.fail_nth_alloc(1);
            }
        });
        let result = vm.slots.set_region(&hooks, update);
        assert_eq!(result.is_err(), fails);
        assert!(vm.slots.track_active());
        let read = vm.slots.read();
        for space in SpaceId::ALL {
            for slot in read.set(space).iter() {
                assert!(!slot.invalid);
                assert!(slot.arch.track_count(slot.base).is_some());
            }
        }
        let kept = update.memory_size > 0 || fails;
        assert_eq!(read.set(NORMAL).len(), usize::from(kept));
        drop((read, hooks));
        vm.finish();
    }
}

/// Proves MS-5.
#[test]
fn a_new_slot_has_counts_if_and_only_if_they_are_active() {
    let vm = Vm::new();
    let tracks = |space: SpaceId, id| {
        let read = vm.slots.read();
        let slot = read.set(space).by_id(id).expect("there");
        (slot.base.0..slot.end().0).all(|gfn| slot.arch.track_count(Gfn(gfn)).is_some())
    };
    vm.set(region(0, 0, 0, 4, 0, 0)).expect("create");
    vm.set(region(1, 1, 0, 4, 0, 0)).expect("create");
    assert!(!vm.slots.track_active());
    assert!(!tracks(NORMAL, 0) && !tracks(SpaceId::SMM, 1));
    // A VM that never tracks anything never pays for it.
    vm.set(region(0, 0, 8, 4, 0, 0)).expect("move");
    assert!(!tracks(NORMAL, 0));

    vm.slots.activate_track().expect("memory");
    assert!(vm.slots.track_active());
    assert!(tracks(NORMAL, 0) && tracks(SpaceId::SMM, 1));
    vm.set(region(0, 2, 16, 4, 0, 0)).expect("create");
    assert!(tracks(NORMAL, 2));
    vm.set(region(0, 2, 24, 4, 0, 0)).expect("move");
    assert!(tracks(NORMAL, 2));
    vm.set(region(0, 2, 24, 4, 0, LOG_DIRTY)).expect("flags");
    assert!(tracks(NORMAL, 2));

    let allocations = vm.host.allocations();
    vm.slots.activate_track().expect("memory");
    assert_eq!(vm.host.allocations(), allocations, "once is enough");
    vm.finish();
}

/// Proves MS-5.
#[test]
fn an_activation_that_fails_half_way_is_tried_again() {
    let vm = Vm::new();
    for id in 0..4 {
        let space = id % 2;
        vm.set(region(space, id, u64::from(id) * 8, 4, 0, 0))
            .expect("create");
    }
    let tracking = || {
        let read = vm.slots.read();
        let slots = SpaceId::ALL.map(|space| read.set(space).iter().collect::<Vec<_>>());
        slots
            .iter()
            .flatten()
            .filter(|slot| slot.arch.tracks())
            .count()
    };
    for done in 0..3 {
        // What was done before stays done.
        assert_eq!(tracking(), done);
        vm.host.fail_nth_alloc(2);
        assert!(vm.slots.activate_track().is_err());
        assert!(!vm.slots.track_active());
    }
    // A slot made between the tries has none yet.
    vm.set(region(0, 9, 0x100, 4, 0, 0)).expect("create");
    vm.slots.activate_track().expect("memory");
    assert_eq!(tracking(), 5);
    vm.finish();
}

/// Proves MS-1.
#[test]
fn updates_and_activation_run_beside_readers_without_deadlock() {
    fn on<const NOTIFIER: bool>(host: Mock<NOTIFIER>) {
        struct Quiet;
        impl<H: waterbear_hal::Hal> waterbear_core::memslot::SlotHooks<H> for Quiet {
            fn zap_slot(&self, _: &waterbear_core::memslot::Slot<H>) {}
            fn committed(&self, _: &waterbear_core::memslot::Change<'_, H>) {}
            fn mmio_generation_wrapped(&self, _: SpaceId) {}
        }
        let slots = Memslots::new(&host, GFN_END).expect("memory");
        let rounds = if cfg!(miri) { 2 } else { 300 };
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let updaters = [0, 1].map(|id| {
                let slots = &slots;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let base = 0x1000 * u64::from(id);
                        let to = base + 8 * (round % 2);
                        let made = region(id % 2, id, base, 8, 0x70, 0);
                        slots.set_region(&Quiet, made).expect("create");
                        let moved = region(id % 2, id, to, 8, 0x70, 0);
                        slots.set_region(&Quiet, moved).expect("move");
                        slots.set_region(&Quiet, gone(id % 2, id)).expect("delete");
                    }
                })
            });
            let activator = scope.spawn(|| {
                for _ in 0..rounds {
                    slots.activate_track().expect("memory");
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(SeqCst) {
                        let active = slots.track_active();
                        let read = slots.read();
                        for space in SpaceId::ALL {
                            for slot in read.set(space).iter() {
                                assert!(!active || slot.arch.tracks());
                            }
                        }
                        drop(read);
                        thread::yield_now();
                    }
                });
            }
            for updater in updaters {
                updater.join().expect("no panic");
            }
            activator.join().expect("no panic");
            over.store(true, SeqCst);
        });
        drop(slots);
        host.assert_no_leaks();
    }
    on::<true>(machine());
    // Here readers wait while somebody waits for readers.
    on::<false>(machine());
}
