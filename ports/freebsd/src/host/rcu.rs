//! Read sections.
use waterbear_hal::{AllocError, RawMutex, Rcu, Srcu};

use super::FreeBsd;
use super::lock::Mutex;
use crate::glue;

/// The rank of slot read sections in the lock order: behind `slots_lock`.
const SECTIONS: u32 = 52;

// SAFETY: a table is freed when each CPU has been without readers, and a lock
// for writing waits for its readers.
unsafe impl Rcu for FreeBsd {
    type Srcu = Domain;

    /// Counts this CPU's readers.
    fn rcu_lock(&self) {
        glue::wb_rcu_lock();
    }

    /// Counts one less.
    unsafe fn rcu_unlock(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_rcu_unlock() }
    }

    /// `taskqueue_drain`.
    fn rcu_barrier(&self) {
        glue::wb_rcu_barrier();
    }

    /// `sx_init`.
    fn new_srcu(&self) -> Result<Domain, AllocError> {
        Ok(Domain(Mutex::of_rank(SECTIONS)?))
    }
}

/// A lock whose readers may sleep.
pub struct Domain(Mutex);

impl Srcu for Domain {
    /// `sx_slock`.
    fn lock(&self) -> usize {
        self.0.lock_shared();
        0
    }

    /// `sx_sunlock`.
    unsafe fn unlock(&self, _token: usize) {
        // SAFETY: as the caller promises.
        unsafe { self.0.unlock_shared() }
    }

    /// `sx_xlock`, `sx_xunlock`.
    fn synchronize(&self) {
        self.0.lock();
        // SAFETY: locked above.
        unsafe { self.0.unlock() }
    }
}
