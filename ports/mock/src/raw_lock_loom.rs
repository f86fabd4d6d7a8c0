//! Locks without classes under the model checker: one operation to lock, and
//! unlocking is not even a point where the checker switches threads.
//!
//! Loom's locks give out guards and the HAL has none, so the guard is kept
//! beside the lock that it borrows.

use std::cell::Cell;
use std::mem::transmute;
use std::sync::Mutex;

use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
use loom::thread::ThreadId;

use crate::sys::{self, book};

/// Guards that are kept. All threads of a model share one thread of the host.
struct Kept<G>(Mutex<Vec<(ThreadId, G)>>);

// SAFETY: all threads of a model run on one thread of the host.
unsafe impl<G> Send for Kept<G> {}
// SAFETY: as for `Send`.
unsafe impl<G> Sync for Kept<G> {}

impl<G> Kept<G> {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn keep(&self, guard: G) {
        book(&self.0).push((loom::thread::current().id(), guard));
    }

    fn drop_mine(&self) {
        let me = loom::thread::current().id();
        let guard = {
            let mut kept = book(&self.0);
            let at = kept.iter().position(|(owner, _)| *owner == me);
            at.map(|at| kept.swap_remove(at))
        };
        drop(guard);
    }

    fn is_empty(&self) -> bool {
        book(&self.0).is_empty()
    }
}

impl<G> Drop for Kept<G> {
    fn drop(&mut self) {
        if sys::model_failed() {
            std::mem::forget(std::mem::take(&mut *book(&self.0)));
        }
    }
}

/// Excludes everyone.
pub(crate) struct Exclusive {
    // Dropped before the lock that the guard borrows.
    guard: Kept<MutexGuard<'static, ()>>,
    lock: Box<loom::sync::Mutex<()>>,
}

impl Default for Exclusive {
    fn default() -> Self {
        Self {
            guard: Kept::new(),
            lock: Box::default(),
        }
    }
}

impl Exclusive {
    pub(crate) fn lock(&self) {
        let guard = self.lock.lock().expect("loom's locks are never poisoned");
        // SAFETY: the guard is dropped before the lock, which does not move.
        let guard = unsafe { transmute::<MutexGuard<'_, ()>, MutexGuard<'static, ()>>(guard) };
        self.guard.keep(guard);
    }

    pub(crate) fn unlock(&self) {
        self.guard.drop_mine();
    }
}

/// Readers exclude writers.
pub(crate) struct Shared {
    // Dropped before the lock that the guards borrow.
    readers: Kept<RwLockReadGuard<'static, ()>>,
    writer: Kept<RwLockWriteGuard<'static, ()>>,
    lock: Box<loom::sync::RwLock<()>>,
    waiting: Cell<u32>,
}

// SAFETY: all threads of a model run on one thread of the host.
unsafe impl Sync for Shared {}

impl Default for Shared {
    fn default() -> Self {
        Self {
            readers: Kept::new(),
            writer: Kept::new(),
            lock: Box::default(),
            waiting: Cell::new(0),
        }
    }
}

impl Shared {
    pub(crate) fn read(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let guard = self.lock.read().expect("loom's locks are never poisoned");
        self.waiting.set(self.waiting.get() - 1);
        // SAFETY: the guard is dropped before the lock, which does not move.
        let guard =
            unsafe { transmute::<RwLockReadGuard<'_, ()>, RwLockReadGuard<'static, ()>>(guard) };
        self.readers.keep(guard);
    }

    pub(crate) fn try_read(&self) -> bool {
        let Ok(guard) = self.lock.try_read() else {
            return false;
        };
        // SAFETY: the guard is dropped before the lock, which does not move.
        let guard =
            unsafe { transmute::<RwLockReadGuard<'_, ()>, RwLockReadGuard<'static, ()>>(guard) };
        self.readers.keep(guard);
        true
    }

    pub(crate) fn unlock_read(&self) {
        self.readers.drop_mine();
    }

    pub(crate) fn write(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let guard = self.lock.write().expect("loom's locks are never poisoned");
        self.waiting.set(self.waiting.get() - 1);
        // SAFETY: the guard is dropped before the lock, which does not move.
        let guard =
            unsafe { transmute::<RwLockWriteGuard<'_, ()>, RwLockWriteGuard<'static, ()>>(guard) };
        self.writer.keep(guard);
    }

    pub(crate) fn unlock_write(&self) {
        self.writer.drop_mine();
    }

    /// Whether somebody waits. Which interleavings this makes yield is a
    /// matter of luck; tests that want yielding ask for it.
    pub(crate) fn is_contended(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Whether nobody holds it.
    pub(crate) fn is_free(&self) -> bool {
        self.readers.is_empty() && self.writer.is_empty()
    }
}
