//! Allocations that fail on request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use waterbear_hal::AllocError;

use crate::Mock;

/// Counts allocations and fails the one that a test chose.
#[derive(Default)]
pub(crate) struct Injector {
    /// Allocations until the one that fails; 0 when none will.
    countdown: AtomicU64,
    fired: AtomicBool,
    made: AtomicU64,
}

impl Injector {
    /// Counts one fallible allocation and decides its fate.
    pub(crate) fn allocation(&self) -> Result<(), AllocError> {
        self.made.fetch_add(1, Relaxed);
        if self.countdown.load(Relaxed) == 0 {
            return Ok(());
        }
        let left = self
            .countdown
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left == Ok(1) {
            self.fired.store(true, Relaxed);
            return Err(AllocError);
        }
        Ok(())
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Makes the `n`-th allocation from now fail, once; 1 is the next one, 0
    /// takes the request back. Page tables, heap memory, locks, read domains
    /// and wait queues count.
    ///
    /// A test runs an operation for n = 1, 2, … until
    /// [`injection_fired`](Self::injection_fired) stays false: then each of
    /// the operation's allocations has failed once.
    pub fn fail_nth_alloc(&self, n: u64) {
        self.0.inject.fired.store(false, Relaxed);
        self.0.inject.countdown.store(n, Relaxed);
    }

    /// Whether the allocation chosen last has failed.
    pub fn injection_fired(&self) -> bool {
        self.0.inject.fired.load(Relaxed)
    }

    /// How many allocations have been asked for so far.
    pub fn allocations(&self) -> u64 {
        self.0.inject.made.load(Relaxed)
    }

    /// Runs `op` once for each of its allocations, with that one failing, and
    /// at last once with none failing. `op` gets the number of the allocation
    /// that fails. Says how many failed.
    pub fn for_each_failing_alloc(&self, mut op: impl FnMut(u64)) -> u64 {
        for n in 1.. {
            self.fail_nth_alloc(n);
            op(n);
            if !self.injection_fired() {
                self.fail_nth_alloc(0);
                return n - 1;
            }
        }
        unreachable!("an operation with 2^64 allocations")
    }
}
