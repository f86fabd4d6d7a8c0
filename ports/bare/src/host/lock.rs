//! Locks. Waiting for one spins with interrupts on, so that a CPU that waits
//! answers calls meanwhile; there is no other thread to switch to.
use core::hint::spin_loop;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use waterbear_hal::{AllocError, Lock, LockClass, RawMutex, RawRwLock};

use super::{Bare, timer};

/// A spinning reader-writer lock. Readers stand back while a writer waits, or
/// guests on every CPU would keep it out for ever.
pub struct SpinLock {
    /// -1 for a writer, else the readers.
    state: AtomicI32,
    /// Everybody who waits.
    waiting: AtomicU32,
    /// The writers among them.
    writers: AtomicU32,
    class: &'static LockClass,
}

/// In nanoseconds; so long that only a deadlock lasts longer.
const PATIENCE: u64 = 20_000_000_000;
/// How often a waiter looks at the lock before it looks at the clock.
const LOOKS: u32 = 1 << 12;

impl SpinLock {
    fn new(class: &'static LockClass) -> Self {
        Self {
            state: AtomicI32::new(0),
            waiting: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            class,
        }
    }

    /// Pairs with the releases in `unlock_read` and `unlock_write`.
    fn try_read(&self) -> bool {
        self.writers.load(Ordering::Relaxed) == 0
            && self
                .state
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                    (state >= 0).then_some(state + 1)
                })
                .is_ok()
    }

    /// Pairs with the releases in `unlock_read` and `unlock_write`.
    fn try_write(&self) -> bool {
        self.state
            .compare_exchange(0, -1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    fn wait(&self, taken: impl Fn(&Self) -> bool) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let start = timer::now();
        while !(0..LOOKS).any(|_| {
            spin_loop();
            taken(self)
        }) {
            if timer::now().wrapping_sub(start) > PATIENCE {
                panic!("deadlock on {}", self.class.name);
            }
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: a writer goes from 0 to -1 and a reader from n >= 0 to n + 1, each
// by compare-exchange, so a writer excludes everyone.
unsafe impl RawRwLock for SpinLock {
    fn read(&self) {
        if !self.try_read() {
            self.wait(Self::try_read);
        }
    }

    fn try_read(&self) -> bool {
        Self::try_read(self)
    }

    unsafe fn unlock_read(&self) {
        self.state.fetch_sub(1, Ordering::Release);
    }

    fn write(&self) {
        if !self.try_write() {
            self.writers.fetch_add(1, Ordering::Relaxed);
            self.wait(Self::try_write);
            self.writers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    unsafe fn unlock_write(&self) {
        self.state.store(0, Ordering::Release);
    }

    fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }
}

/// A mutex.
pub struct Mutex(SpinLock);

// SAFETY: the lock excludes everyone while its writer holds it.
unsafe impl RawMutex for Mutex {
    fn lock(&self) {
        self.0.write();
    }

    unsafe fn unlock(&self) {
        // SAFETY: as the caller promises.
        unsafe { self.0.unlock_write() }
    }
}

impl Lock for Bare {
    type Mutex = Mutex;
    type RwLock = SpinLock;

    fn new_mutex(&self, class: &'static LockClass) -> Result<Mutex, AllocError> {
        Ok(Mutex(SpinLock::new(class)))
    }

    fn new_rwlock(&self, class: &'static LockClass) -> Result<SpinLock, AllocError> {
        Ok(SpinLock::new(class))
    }
}
