//! Locks.
use core::hint::spin_loop;
use core::sync::atomic::{AtomicI32, Ordering};

use waterbear_hal::{AllocError, Lock, LockClass, RawMutex, RawRwLock};

use super::Bare;

/// A spinning reader-writer lock: -1 for a writer, else the readers.
pub struct SpinLock {
    state: AtomicI32,
    class: &'static LockClass,
}

/// So long that only a deadlock lasts longer.
const PATIENCE: u32 = 1 << 30;

impl SpinLock {
    fn new(class: &'static LockClass) -> Self {
        Self {
            state: AtomicI32::new(0),
            class,
        }
    }

    fn acquire(&self, change: impl Fn(i32) -> Option<i32>) {
        for _ in 0..PATIENCE {
            let taken = self
                .state
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, &change);
            if taken.is_ok() {
                return;
            }
            spin_loop();
        }
        panic!("deadlock on {}", self.class.name);
    }
}

// SAFETY: a writer goes from 0 to -1 and a reader from n >= 0 to n + 1, each
// by compare-exchange, so a writer excludes everyone.
unsafe impl RawRwLock for SpinLock {
    fn read(&self) {
        self.acquire(|state| (state >= 0).then_some(state + 1));
    }

    unsafe fn unlock_read(&self) {
        self.state.fetch_sub(1, Ordering::Release);
    }

    fn write(&self) {
        self.acquire(|state| (state == 0).then_some(-1));
    }

    unsafe fn unlock_write(&self) {
        self.state.store(0, Ordering::Release);
    }

    fn is_contended(&self) -> bool {
        false
    }
}

/// A mutex; waiting for it spins, because there is no one to switch to.
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
