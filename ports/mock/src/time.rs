//! Clocks that go on when somebody looks at them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use waterbear_hal::Time;

use crate::Mock;

/// The machine's clocks, but for the time-stamp counters.
#[derive(Default)]
pub(crate) struct Clocks {
    nanoseconds: AtomicU64,
    /// When the machine was booted, in nanoseconds since 1970.
    boot: AtomicU64,
    unstable: AtomicBool,
}

impl<const NOTIFIER: bool> Time for Mock<NOTIFIER> {
    fn nanoseconds(&self) -> u64 {
        self.0.clocks.nanoseconds.fetch_add(1_000, Relaxed)
    }

    fn wall_nanoseconds(&self) -> u64 {
        let since_boot = self.nanoseconds();
        self.0.clocks.boot.load(Relaxed).wrapping_add(since_boot)
    }

    fn tsc_is_stable(&self) -> bool {
        !self.0.clocks.unstable.load(Relaxed)
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Sets how long the machine has been up, in nanoseconds. Each look at the clock takes a
    /// thousand.
    pub fn set_time(&self, nanoseconds: u64) {
        self.0.clocks.nanoseconds.store(nanoseconds, Relaxed);
    }

    /// Sets when the machine was booted, in nanoseconds since 1970.
    pub fn set_boot_time(&self, nanoseconds: u64) {
        self.0.clocks.boot.store(nanoseconds, Relaxed);
    }

    /// Makes the time-stamp counters such that nobody can rely on them.
    pub fn make_tsc_unstable(&self) {
        self.0.clocks.unstable.store(true, Relaxed);
    }
}
