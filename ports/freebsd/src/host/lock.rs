//! Locks, in memory of their own: the kernel's must not move.
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Lock, LockClass, RawMutex, RawRwLock};

use super::{FreeBsd, allocated};
use crate::glue::{self, MutexStruct, RwLockStruct};

impl Lock for FreeBsd {
    type Mutex = Mutex;
    type RwLock = RwLock;

    /// `sx_init`, with a name per rank.
    fn new_mutex(&self, class: &'static LockClass) -> Result<Mutex, AllocError> {
        Mutex::of_rank(class.rank.into())
    }

    /// `rw_init`, with a name per rank.
    fn new_rwlock(&self, class: &'static LockClass) -> Result<RwLock, AllocError> {
        Ok(RwLock(allocated(glue::wb_rwlock_new(class.rank.into()))?))
    }
}

/// A `struct sx`.
pub struct Mutex(NonNull<MutexStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Mutex {}
// SAFETY: as above.
unsafe impl Sync for Mutex {}

impl Mutex {
    /// One of that rank in the lock order.
    pub fn of_rank(rank: u32) -> Result<Self, AllocError> {
        Ok(Self(allocated(glue::wb_mutex_new(rank))?))
    }

    /// `sx_slock`: many may, while nobody holds the mutex.
    pub fn lock_shared(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_mutex_lock_shared(self.0.as_ptr()) }
    }

    /// `sx_sunlock`.
    ///
    /// # Safety
    ///
    /// This thread has called `lock_shared`.
    pub unsafe fn unlock_shared(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_mutex_unlock_shared(self.0.as_ptr()) }
    }
}

// SAFETY: the kernel's lock excludes.
unsafe impl RawMutex for Mutex {
    /// `sx_xlock`.
    fn lock(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_mutex_lock(self.0.as_ptr()) }
    }

    /// `sx_xlock_sig`, which any signal ends.
    fn lock_killable(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_mutex_lock_killable(self.0.as_ptr()) }
    }

    /// `sx_xunlock`.
    unsafe fn unlock(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_mutex_unlock(self.0.as_ptr()) }
    }
}

impl Drop for Mutex {
    fn drop(&mut self) {
        // SAFETY: nobody can hold it any more.
        unsafe { glue::wb_mutex_free(self.0.as_ptr()) }
    }
}

/// A `struct rwlock`.
pub struct RwLock(NonNull<RwLockStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for RwLock {}
// SAFETY: as above.
unsafe impl Sync for RwLock {}

// SAFETY: a writer of the kernel's lock excludes everyone, a reader writers.
unsafe impl RawRwLock for RwLock {
    /// `rw_rlock`.
    fn read(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_read_lock(self.0.as_ptr()) }
    }

    /// `rw_runlock`.
    unsafe fn unlock_read(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_read_unlock(self.0.as_ptr()) }
    }

    /// `rw_wlock`.
    fn write(&self) {
        // SAFETY: as above.
        unsafe { glue::wb_write_lock(self.0.as_ptr()) }
    }

    /// `rw_wunlock`.
    unsafe fn unlock_write(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_write_unlock(self.0.as_ptr()) }
    }

    /// A count of those that had to wait.
    fn is_contended(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_rwlock_contended(self.0.as_ptr()) }
    }
}

impl Drop for RwLock {
    fn drop(&mut self) {
        // SAFETY: nobody can hold it any more.
        unsafe { glue::wb_rwlock_free(self.0.as_ptr()) }
    }
}
