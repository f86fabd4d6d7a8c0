//! Locks, in memory of their own: the kernel's must not move.
use core::ffi::c_char;
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Lock, LockClass, RawMutex, RawRwLock};

use super::{Linux, allocated};
use crate::glue::{self, MutexStruct, RwLockStruct};

/// Lockdep wants a name that ends; the classes' names have a length. So all of
/// ours have one name, and the rank tells them apart.
const NAME: *const c_char = c"waterbear".as_ptr();

impl Lock for Linux {
    type Mutex = Mutex;
    type RwLock = RwLock;

    /// `__mutex_init`, with a lockdep class per rank.
    fn new_mutex(&self, class: &'static LockClass) -> Result<Mutex, AllocError> {
        // SAFETY: the name is static.
        let lock = unsafe { glue::wb_mutex_new(NAME, class.rank.into()) };
        Ok(Mutex(allocated(lock)?))
    }

    /// `rwlock_init`, with a lockdep class per rank.
    fn new_rwlock(&self, class: &'static LockClass) -> Result<RwLock, AllocError> {
        // SAFETY: the name is static.
        let lock = unsafe { glue::wb_rwlock_new(NAME, class.rank.into()) };
        Ok(RwLock(allocated(lock)?))
    }
}

/// A `struct mutex`.
pub struct Mutex(NonNull<MutexStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Mutex {}
// SAFETY: as above.
unsafe impl Sync for Mutex {}

// SAFETY: the kernel's mutex excludes everyone.
unsafe impl RawMutex for Mutex {
    /// `mutex_lock`.
    fn lock(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_mutex_lock(self.0.as_ptr()) }
    }

    /// `mutex_lock_killable`.
    fn lock_killable(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_mutex_lock_killable(self.0.as_ptr()) }
    }

    /// `mutex_unlock`.
    unsafe fn unlock(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_mutex_unlock(self.0.as_ptr()) }
    }
}

impl Drop for Mutex {
    fn drop(&mut self) {
        // SAFETY: nobody can hold it any more.
        unsafe { glue::wb_free(self.0.as_ptr().cast()) }
    }
}

/// An `rwlock_t`.
pub struct RwLock(NonNull<RwLockStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for RwLock {}
// SAFETY: as above.
unsafe impl Sync for RwLock {}

// SAFETY: a writer of the kernel's lock excludes everyone, a reader writers.
unsafe impl RawRwLock for RwLock {
    /// `read_lock`.
    fn read(&self) {
        // SAFETY: initialised, and this value's until it is dropped.
        unsafe { glue::wb_read_lock(self.0.as_ptr()) }
    }

    /// `read_trylock`.
    fn try_read(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_read_trylock(self.0.as_ptr()) }
    }

    /// `read_unlock`.
    unsafe fn unlock_read(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_read_unlock(self.0.as_ptr()) }
    }

    /// `write_lock`.
    fn write(&self) {
        // SAFETY: as above.
        unsafe { glue::wb_write_lock(self.0.as_ptr()) }
    }

    /// `write_unlock`.
    unsafe fn unlock_write(&self) {
        // SAFETY: as above, and as the caller promises.
        unsafe { glue::wb_write_unlock(self.0.as_ptr()) }
    }

    /// `rwlock_needbreak`.
    fn is_contended(&self) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_rwlock_contended(self.0.as_ptr()) }
    }
}

impl Drop for RwLock {
    fn drop(&mut self) {
        // SAFETY: nobody can hold it any more.
        unsafe { glue::wb_free(self.0.as_ptr().cast()) }
    }
}
