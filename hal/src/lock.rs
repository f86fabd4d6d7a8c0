//! Locks, each with a class that says where it stands in the lock order.
use crate::memory::AllocError;

/// What kind of lock a class names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Its holder may sleep, and waiting for it may.
    Sleeping,
    /// Its holder must not sleep.
    Spinning,
}

/// A class of locks: one row of the lock-order table.
///
/// A thread takes locks in order of rising rank only. The mock enforces that;
/// on Linux the class becomes a lockdep class, on FreeBSD a WITNESS name.
#[derive(PartialEq, Eq, Debug)]
pub struct LockClass {
    /// The lock's name, as it stands in the documentation.
    pub name: &'static str,
    /// The place in the order.
    pub rank: u16,
    /// Whether its holder may sleep.
    pub kind: LockKind,
}

/// Locks. Creating one may sleep and may fail, because a kernel's lock must not
/// move once it is initialised, so ports keep it in memory of its own.
pub trait Lock {
    /// A mutex whose holder may sleep.
    type Mutex: RawMutex;
    /// A spinning reader-writer lock.
    type RwLock: RawRwLock;

    /// Makes a mutex.
    ///
    /// Linux: `mutex_init`. FreeBSD: `sx_init`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn new_mutex(&self, class: &'static LockClass) -> Result<Self::Mutex, AllocError>;

    /// Makes a spinning reader-writer lock.
    ///
    /// Linux: `rwlock_init`. FreeBSD: `rw_init`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn new_rwlock(&self, class: &'static LockClass) -> Result<Self::RwLock, AllocError>;
}

/// A mutex without data. The core wraps it in a type that owns what it
/// protects.
///
/// # Safety
///
/// The implementor promises mutual exclusion between `lock` and `unlock`.
pub unsafe trait RawMutex: Send + Sync {
    /// Locks. May sleep.
    ///
    /// Linux: `mutex_lock`. FreeBSD: `sx_xlock`.
    fn lock(&self);

    /// As [`lock`](RawMutex::lock), unless a signal that ends the thread's
    /// process comes while it waits; says whether it locked. A host that cannot
    /// tell such a signal from others may let any of them end the wait, and one
    /// whose threads nobody ends waits.
    ///
    /// Linux: `mutex_lock_killable`. FreeBSD: `sx_xlock_sig`.
    fn lock_killable(&self) -> bool {
        self.lock();
        true
    }

    /// Unlocks.
    ///
    /// Linux: `mutex_unlock`. FreeBSD: `sx_xunlock`.
    ///
    /// # Safety
    ///
    /// This thread locked it.
    unsafe fn unlock(&self);
}

/// A spinning reader-writer lock without data.
///
/// # Safety
///
/// The implementor promises that a writer excludes everyone and a reader
/// excludes writers.
pub unsafe trait RawRwLock: Send + Sync {
    /// Locks for reading. Spins; disables preemption. Interrupts on.
    ///
    /// Linux: `read_lock`. FreeBSD: `rw_rlock`.
    fn read(&self);

    /// As [`read`](RawRwLock::read), if that can be had at once; says whether.
    /// Does not spin; interrupts may be off, and then they stay off until the
    /// reader unlocks. A host that cannot says no.
    ///
    /// Linux: `read_trylock`. FreeBSD: `rw_try_rlock`.
    fn try_read(&self) -> bool {
        false
    }

    /// Unlocks a reader.
    ///
    /// Linux: `read_unlock`. FreeBSD: `rw_runlock`.
    ///
    /// # Safety
    ///
    /// This thread locked it for reading.
    unsafe fn unlock_read(&self);

    /// Locks for writing. Spins; disables preemption. Interrupts on.
    ///
    /// Linux: `write_lock`. FreeBSD: `rw_wlock`.
    fn write(&self);

    /// Unlocks the writer.
    ///
    /// Linux: `write_unlock`. FreeBSD: `rw_wunlock`.
    ///
    /// # Safety
    ///
    /// This thread locked it for writing.
    unsafe fn unlock_write(&self);

    /// Whether somebody waits for the lock, as far as the host can tell. A
    /// hint: long walks let go of the lock when it is true.
    ///
    /// Linux: `rwlock_needbreak`. FreeBSD: the waiter bits of `rw_lock`.
    fn is_contended(&self) -> bool;
}
