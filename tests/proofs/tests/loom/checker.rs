//! The model checker itself: it tries every order that the models rely on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use loom::thread;

use waterbear_hal::sync::atomic::AtomicU64;
use waterbear_hal::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::twins::explore;

/// Runs a model for each order of its operations and collects what it returns.
fn outcomes<T: Eq + std::hash::Hash + Send + 'static>(
    model: impl Fn() -> T + Send + Sync + 'static,
) -> HashSet<T> {
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let collected = Arc::clone(&seen);
    explore(move || {
        let outcome = model();
        collected.lock().unwrap().insert(outcome);
    });
    std::mem::take(&mut *seen.lock().unwrap())
}

/// A load beside a thread that loads the same value before it changes it.
#[test]
fn a_load_is_tried_before_and_after_a_change_that_a_load_precedes() {
    let seen = outcomes(|| {
        let value = Arc::new(AtomicU64::new(0));
        let other = Arc::clone(&value);
        let thread = thread::spawn(move || {
            let old = other.load(Relaxed);
            other.compare_exchange(old, 1, AcqRel, Relaxed).unwrap();
        });
        let seen = value.load(Relaxed);
        thread.join().unwrap();
        seen
    });
    assert_eq!(seen, HashSet::from([0, 1]));
}

/// Two threads that each load a value and then replace it: one of them, or
/// both, may be late.
#[test]
fn two_loads_with_exchanges_after_them_are_tried_in_every_order() {
    let seen = outcomes(|| {
        let value = Arc::new(AtomicU64::new(0));
        let step = |value: &AtomicU64| {
            let old = value.load(Acquire);
            value
                .compare_exchange(old, old + 1, AcqRel, Relaxed)
                .is_ok()
        };
        let other = Arc::clone(&value);
        let thread = thread::spawn(move || step(&other));
        let mine = step(&value);
        (mine, thread.join().unwrap())
    });
    assert_eq!(
        seen,
        HashSet::from([(true, true), (true, false), (false, true)])
    );
}

/// The turns that threads take order nothing: without release and acquire a
/// reader sees the flag and not what was written before it.
#[test]
fn a_load_may_still_return_an_old_value() {
    let with = |order: fn() -> (std::sync::atomic::Ordering, std::sync::atomic::Ordering)| {
        outcomes(move || {
            let (release, acquire) = order();
            let (data, flag) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let (data2, flag2) = (Arc::clone(&data), Arc::clone(&flag));
            let thread = thread::spawn(move || {
                data2.store(1, Relaxed);
                flag2.store(1, release);
            });
            let seen = (flag.load(acquire), data.load(Relaxed));
            thread.join().unwrap();
            seen
        })
    };
    assert!(with(|| (Relaxed, Relaxed)).contains(&(1, 0)));
    assert!(!with(|| (Release, Acquire)).contains(&(1, 0)));
}
