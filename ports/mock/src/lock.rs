//! Locks that know their class and enforce the lock order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use waterbear_hal::AllocError;
use waterbear_hal::lock::{Lock, LockClass, LockKind, RawMutex, RawRwLock};

use crate::context::Held;
use crate::leaks::Alive;
use crate::raw_lock::{Exclusive, Shared};
use crate::{Machine, Mock, broken, sys};

/// A lock's number, for the books.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

impl<const NOTIFIER: bool> Lock for Mock<NOTIFIER> {
    type Mutex = Mutex;
    type RwLock = RwLock;

    #[track_caller]
    fn new_mutex(&self, class: &'static LockClass) -> Result<Mutex, AllocError> {
        self.0.may_sleep("new_mutex");
        assert!(
            class.kind == LockKind::Sleeping,
            "`{}` is a mutex of a spinning class",
            class.name
        );
        self.0.inject.allocation()?;
        Ok(Mutex {
            alive: Alive::new(&self.0, |live| &live.mutexes),
            id: number(),
            class,
            raw: Exclusive::default(),
        })
    }

    #[track_caller]
    fn new_rwlock(&self, class: &'static LockClass) -> Result<RwLock, AllocError> {
        self.0.may_sleep("new_rwlock");
        assert!(
            class.kind == LockKind::Spinning,
            "`{}` is a spinning lock of a sleeping class",
            class.name
        );
        self.0.inject.allocation()?;
        Ok(RwLock {
            alive: Alive::new(&self.0, |live| &live.rwlocks),
            id: number(),
            class,
            raw: Shared::default(),
        })
    }
}

/// A mutex whose holder may sleep.
pub struct Mutex {
    alive: Alive,
    id: u64,
    class: &'static LockClass,
    raw: Exclusive,
}

// SAFETY: `Exclusive` excludes.
unsafe impl RawMutex for Mutex {
    #[track_caller]
    fn lock(&self) {
        let machine = self.alive.machine();
        if machine.checking {
            machine.may_sleep(self.class.name);
            machine.thread().check_rank(self.class);
        }
        self.raw.lock();
        took(machine, self.id, self.class, true);
    }

    #[cfg(not(loom))]
    #[track_caller]
    fn lock_killable(&self) -> bool {
        let machine = self.alive.machine();
        if machine.checking {
            machine.may_sleep(self.class.name);
            machine.thread().check_rank(self.class);
        }
        let locked = self.raw.lock_unless(|| machine.cpus.dying());
        if locked {
            took(machine, self.id, self.class, true);
        }
        locked
    }

    #[track_caller]
    unsafe fn unlock(&self) {
        if sys::model_failed() {
            return;
        }
        releases(self.alive.machine(), self.id, self.class, true);
        self.raw.unlock();
    }
}

/// A spinning reader-writer lock.
pub struct RwLock {
    alive: Alive,
    id: u64,
    class: &'static LockClass,
    raw: Shared,
}

// SAFETY: `Shared` lets a writer exclude everyone and a reader exclude writers.
unsafe impl RawRwLock for RwLock {
    #[track_caller]
    fn read(&self) {
        self.check();
        self.raw.read();
        took(self.alive.machine(), self.id, self.class, false);
    }

    fn try_read(&self) -> bool {
        // Who does not wait needs no order and no interrupts.
        let taken = self.raw.try_read();
        if taken {
            took(self.alive.machine(), self.id, self.class, false);
        }
        taken
    }

    #[track_caller]
    unsafe fn unlock_read(&self) {
        if sys::model_failed() {
            return;
        }
        releases(self.alive.machine(), self.id, self.class, false);
        self.raw.unlock_read();
    }

    #[track_caller]
    fn write(&self) {
        self.check();
        self.raw.write();
        took(self.alive.machine(), self.id, self.class, true);
    }

    #[track_caller]
    unsafe fn unlock_write(&self) {
        if sys::model_failed() {
            return;
        }
        releases(self.alive.machine(), self.id, self.class, true);
        self.raw.unlock_write();
    }

    fn is_contended(&self) -> bool {
        self.alive.machine().cpus.pretends_contention() || self.raw.is_contended()
    }
}

impl RwLock {
    #[track_caller]
    fn check(&self) {
        let machine = self.alive.machine();
        if machine.checking {
            machine.needs_irqs_on(self.class.name);
            machine.thread().check_rank(self.class);
        }
    }
}

impl Drop for RwLock {
    fn drop(&mut self) {
        if !self.raw.is_free() {
            broken!("`{}` is destroyed while it is locked", self.class.name);
        }
    }
}

fn took(machine: &Arc<Machine>, lock: u64, class: &'static LockClass, write: bool) {
    if machine.checking {
        machine.thread().took(Held { class, lock, write });
    }
}

#[track_caller]
fn releases(machine: &Arc<Machine>, lock: u64, class: &'static LockClass, write: bool) {
    if machine.checking {
        machine.thread().releases(lock, write, class);
    }
}
