//! Publishing and unmap notifications.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use waterbear_core::memslot::SpaceId;

use crate::vm::{Vm, gone, region};

/// Proves MS-10.
#[test]
fn publishing_waits_for_a_running_notification() {
    let vm = Vm::new();
    vm.set(region(0, 0, 0, 4, 0, 0)).expect("create");
    for update in [region(0, 1, 8, 4, 0, 0), gone(0, 0)] {
        let before = vm.dump();
        let generation = vm.generation(SpaceId::NORMAL);
        let gate = vm.slots.gate();
        gate.begin();
        // Notifications overlap and nest.
        gate.begin();
        gate.end();
        thread::scope(|scope| {
            scope.spawn(|| vm.set(update).expect("legal"));
            let start = Instant::now();
            while vm.host.sleepers() == 0 {
                assert!(start.elapsed() < Duration::from_secs(50), "it waits");
                thread::yield_now();
            }
            assert_eq!(vm.generation(SpaceId::NORMAL), generation);
            // A second one may begin while somebody waits.
            gate.begin();
            gate.end();
            assert_eq!(vm.generation(SpaceId::NORMAL), generation);
            gate.end();
        });
        assert_ne!(vm.dump(), before);
    }
    vm.finish();
}

/// Proves MS-10.
#[test]
fn notifications_end_on_the_set_that_they_began_on() {
    let vm = Vm::new();
    let over = AtomicBool::new(false);
    let rounds = if cfg!(miri) { 3 } else { 1000 };
    thread::scope(|scope| {
        let updater = scope.spawn(|| {
            for _ in 0..rounds {
                vm.set(region(0, 0, 0, 4, 0, 0)).expect("create");
                vm.set(gone(0, 0)).expect("delete");
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let set = || {
                    let read = vm.slots.read();
                    std::ptr::from_ref(read.set(SpaceId::NORMAL)).addr()
                };
                while !over.load(SeqCst) {
                    vm.slots.gate().begin();
                    let began = set();
                    thread::yield_now();
                    let ended = set();
                    vm.slots.gate().end();
                    assert_eq!(began, ended);
                    // Let the updater have a chance: it waits for a moment
                    // without any notification. Miri's clock counts steps, and
                    // an update takes many.
                    thread::sleep(Duration::from_micros(if cfg!(miri) { 50_000 } else { 50 }));
                }
            });
        }
        updater.join().expect("no panic");
        over.store(true, SeqCst);
    });
    vm.finish();
}

/// Proves MS-10.
#[test]
#[should_panic(expected = "a notification ended that had not begun")]
fn an_end_without_a_beginning_is_reported() {
    Vm::new().slots.gate().end();
}
