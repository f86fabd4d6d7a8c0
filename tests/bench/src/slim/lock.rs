//! Spinning locks.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use waterbear_hal::{AllocError, Lock, LockClass, RawMutex, RawRwLock};

use super::SlimHost;

/// Tries until it works. A kernel's spinner never waits for a thread that has
/// lost its CPU; here one may, so in the long run the CPU is offered to it.
#[cold]
fn spin_until(mut done: impl FnMut() -> bool) {
    for round in 0u32.. {
        if done() {
            return;
        }
        if round % 256 == 255 {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// A mutex.
#[derive(Default)]
pub struct Mutex(AtomicBool);

impl Mutex {
    #[inline]
    fn try_lock(&self) -> bool {
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

// SAFETY: whoever changes the flag from false to true holds the lock until it
// stores false.
unsafe impl RawMutex for Mutex {
    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            spin_until(|| self.try_lock());
        }
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The writer holds the lock.
const WRITER: u32 = 1 << 31;
/// A writer waits: new readers wait as well.
const WRITER_WAITS: u32 = 1 << 30;

/// A reader-writer lock: the number of readers and two flags in one word, as
/// in the kernels. Like theirs it must not move, so it has memory of its own.
#[derive(Default)]
pub struct RwLock(Box<Word>);

/// A word on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Word(AtomicU32);

impl core::ops::Deref for RwLock {
    type Target = AtomicU32;
    #[inline(always)]
    fn deref(&self) -> &AtomicU32 {
        &self.0.0
    }
}

impl RwLock {
    fn try_write(&self) -> bool {
        let word = self.load(Ordering::Relaxed);
        word & !WRITER_WAITS == 0
            && self
                .compare_exchange(word, WRITER, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }
}

// SAFETY: a reader has counted itself and then seen no writer; a writer has
// changed a word without readers and without a writer.
unsafe impl RawRwLock for RwLock {
    #[inline]
    fn read(&self) {
        let taken = || {
            let word = self.fetch_add(1, Ordering::Acquire);
            word & (WRITER | WRITER_WAITS) == 0 || {
                self.fetch_sub(1, Ordering::Relaxed);
                false
            }
        };
        if !taken() {
            spin_until(|| self.load(Ordering::Relaxed) & (WRITER | WRITER_WAITS) == 0 && taken());
        }
    }

    #[inline]
    unsafe fn unlock_read(&self) {
        self.fetch_sub(1, Ordering::Release);
    }

    #[inline]
    fn write(&self) {
        if !self.try_write() {
            spin_until(|| {
                // Taking the lock clears the flag, so each waiter sets it
                // again.
                self.fetch_or(WRITER_WAITS, Ordering::Relaxed);
                self.try_write()
            });
        }
    }

    #[inline]
    unsafe fn unlock_write(&self) {
        // Readers that just looked may be counted.
        self.fetch_and(!WRITER, Ordering::Release);
    }

    #[inline]
    fn is_contended(&self) -> bool {
        self.load(Ordering::Relaxed) & WRITER_WAITS != 0
    }
}

impl Lock for SlimHost {
    type Mutex = Mutex;
    type RwLock = RwLock;

    fn new_mutex(&self, _class: &'static LockClass) -> Result<Mutex, AllocError> {
        Ok(Mutex::default())
    }

    fn new_rwlock(&self, _class: &'static LockClass) -> Result<RwLock, AllocError> {
        Ok(RwLock::default())
    }
}
