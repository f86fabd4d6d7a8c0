//! Locks, in memory of their own: the kernel's must not move.
use waterbear_hal::{AllocError, Lock, LockClass, RawMutex, RawRwLock};

use super::{Kernel, allocated, object};
use crate::glue;

impl Lock for Kernel {
    type Mutex = Mutex;
    type RwLock = RwLock;

    /// `__mutex_init` with a lockdep class per rank; `sx_init` with a name per rank.
    fn new_mutex(&self, class: &'static LockClass) -> Result<Mutex, AllocError> {
        Ok(Mutex(allocated(glue::wb_mutex_new(class.rank.into()))?))
    }

    /// `rwlock_init` with a lockdep class per rank; `rw_init` with a name per rank.
    fn new_rwlock(&self, class: &'static LockClass) -> Result<RwLock, AllocError> {
        Ok(RwLock(allocated(glue::wb_rwlock_new(class.rank.into()))?))
    }
}

object! {
    /// A `struct wb_mutex`.
    Mutex, MutexStruct, wb_mutex_free
}

// SAFETY: the kernel's mutex excludes everyone.
unsafe impl RawMutex for Mutex {
    /// `mutex_lock`; `sx_xlock`.
    fn lock(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_mutex_lock(self.0.as_ptr()) }
    }

    /// `mutex_lock_killable`; `sx_xlock_sig`, which any signal ends.
    fn lock_killable(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_mutex_lock_killable(self.0.as_ptr()) }
    }

    /// `mutex_unlock`; `sx_xunlock`.
    unsafe fn unlock(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_mutex_unlock(self.0.as_ptr()) }
    }
}

object! {
    /// A `struct wb_rwlock`.
    RwLock, RwLockStruct, wb_rwlock_free
}

// SAFETY: a writer of the kernel's lock excludes everyone, a reader writers.
unsafe impl RawRwLock for RwLock {
    /// `read_lock`; `rw_rlock`.
    fn read(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_read_lock(self.0.as_ptr()) }
    }

    /// `read_trylock`.
    #[cfg(feature = "notifications")]
    fn try_read(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_read_trylock(self.0.as_ptr()) }
    }

    /// `read_unlock`; `rw_runlock`.
    unsafe fn unlock_read(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_read_unlock(self.0.as_ptr()) }
    }

    /// `write_lock`; `rw_wlock`.
    fn write(&self) {
        // SAFETY: as above.
        unsafe { glue::wb_write_lock(self.0.as_ptr()) }
    }

    /// `write_unlock`; `rw_wunlock`.
    unsafe fn unlock_write(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_write_unlock(self.0.as_ptr()) }
    }

    /// `rwlock_needbreak`; a count of those that had to wait.
    fn is_contended(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_rwlock_contended(self.0.as_ptr()) }
    }
}
