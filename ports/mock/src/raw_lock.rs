//! Locks without classes: what [`crate::lock`] builds on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::sys::{self, PATIENCE};

/// Excludes everyone. Waiting for it sleeps.
#[derive(Default)]
pub(crate) struct Exclusive {
    locked: sys::Mutex<bool>,
    moved: sys::Condvar,
}

impl Exclusive {
    pub(crate) fn lock(&self) {
        let mut locked = sys::lock(&self.locked);
        while *locked {
            locked = sys::wait(&self.moved, locked, "a mutex");
        }
        *locked = true;
    }

    /// As [`lock`](Exclusive::lock), unless it has to wait while `dying`; says
    /// whether it locked.
    pub(crate) fn lock_unless(&self, dying: impl Fn() -> bool) -> bool {
        let mut locked = sys::lock(&self.locked);
        let start = Instant::now();
        while *locked {
            if dying() {
                return false;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "deadlock: waited {PATIENCE:?} for a mutex"
            );
            locked = sys::nap(&self.moved, locked);
        }
        *locked = true;
        true
    }

    pub(crate) fn unlock(&self) {
        *sys::lock(&self.locked) = false;
        self.moved.notify_one();
    }
}

const WRITER: u32 = 1 << 31;

/// Readers exclude writers. A writer that waits holds new readers off, so it
/// gets its turn. Waiting for it spins.
#[derive(Default)]
pub(crate) struct Shared {
    /// The number of readers, or `WRITER`.
    state: AtomicU32,
    readers_waiting: AtomicU32,
    writers_waiting: AtomicU32,
}

impl Shared {
    pub(crate) fn read(&self) {
        if !self.try_read() {
            self.readers_waiting.fetch_add(1, Ordering::Relaxed);
            spin_until(|| self.try_read());
            self.readers_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn unlock_read(&self) {
        self.state.fetch_sub(1, Ordering::Release);
    }

    pub(crate) fn write(&self) {
        if !self.try_write() {
            self.writers_waiting.fetch_add(1, Ordering::Relaxed);
            spin_until(|| self.try_write());
            self.writers_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn unlock_write(&self) {
        self.state.store(0, Ordering::Release);
    }

    /// Whether somebody waits.
    pub(crate) fn is_contended(&self) -> bool {
        self.writers_waiting.load(Ordering::Relaxed) > 0
            || self.readers_waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether nobody holds it.
    pub(crate) fn is_free(&self) -> bool {
        self.state.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn try_read(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state & WRITER == 0
            && self.writers_waiting.load(Ordering::Relaxed) == 0
            && self.exchange(state, state + 1)
    }

    fn try_write(&self) -> bool {
        self.exchange(0, WRITER)
    }

    fn exchange(&self, old: u32, new: u32) -> bool {
        self.state
            .compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

/// Tries until it works, and lets other threads run in between.
fn spin_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    for round in 0u32.. {
        if done() {
            return;
        }
        if round < 64 {
            std::hint::spin_loop();
        } else {
            assert!(
                start.elapsed() < PATIENCE,
                "deadlock: waited {PATIENCE:?} for a spinning lock"
            );
            std::thread::yield_now();
        }
    }
}
