//! Blocking primitives: the standard library's, or the model checker's.
//!
//! Two kinds of state live in the mock. What orders memory or blocks a thread
//! for the code under test uses the types of this module. What only keeps
//! books uses `std::sync` in every mode. Under loom all threads of a model run
//! on one thread of the host, so a book's mutex never blocks there, provided
//! that no operation that loom sees happens while it is held.

use std::sync::PoisonError;

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// How long a thread waits before the mock calls it a deadlock.
#[cfg(not(loom))]
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Whether a model failed and its threads are being unwound. The model checker
/// is gone then, so whatever a destructor calls must leave it alone.
pub(crate) fn model_failed() -> bool {
    cfg!(loom) && std::thread::panicking()
}

/// Locks. A panic elsewhere does not matter here: the books stay right.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex that protects nothing but books.
pub(crate) fn book<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until the condition variable is notified, or for no reason. Loom sees
/// a deadlock by itself; elsewhere a wait without end panics and names `what`.
#[cfg(not(loom))]
pub(crate) fn wait<'a, T>(
    moved: &Condvar,
    guard: MutexGuard<'a, T>,
    what: &str,
) -> MutexGuard<'a, T> {
    let (guard, timeout) = moved
        .wait_timeout(guard, PATIENCE)
        .unwrap_or_else(PoisonError::into_inner);
    if timeout.timed_out() {
        drop(guard);
        panic!("deadlock: waited {PATIENCE:?} for {what}");
    }
    guard
}

/// Sleeps for a moment, or until the condition variable is notified.
#[cfg(not(loom))]
pub(crate) fn nap<'a, T>(moved: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    const MOMENT: std::time::Duration = std::time::Duration::from_millis(1);
    let (guard, _timeout) = moved
        .wait_timeout(guard, MOMENT)
        .unwrap_or_else(PoisonError::into_inner);
    guard
}

/// Sleeps until the condition variable is notified, or for no reason.
#[cfg(loom)]
pub(crate) fn wait<'a, T>(
    moved: &Condvar,
    guard: MutexGuard<'a, T>,
    _what: &str,
) -> MutexGuard<'a, T> {
    moved.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
