//! Read sections.
use core::ffi::c_int;

use waterbear_hal::{AllocError, Rcu, Srcu};

use super::{Kernel, allocated, object};
use crate::glue;

// SAFETY: a table is freed when every section that was open is over, and the
// domains wait as they say.
unsafe impl Rcu for Kernel {
    type Srcu = Domain;

    /// `rcu_read_lock`; counts this CPU's readers.
    fn rcu_lock(&self) {
        glue::wb_rcu_lock();
    }

    /// `rcu_read_unlock`; counts one less.
    unsafe fn rcu_unlock(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_rcu_unlock() }
    }

    /// `rcu_barrier`; `taskqueue_drain`.
    fn rcu_barrier(&self) {
        glue::wb_rcu_barrier();
    }

    /// `init_srcu_struct`; `sx_init`.
    fn new_srcu(&self) -> Result<Domain, AllocError> {
        Ok(Domain(allocated(glue::wb_srcu_new())?))
    }
}

object! {
    /// A `struct wb_srcu`.
    Domain, SrcuStruct, wb_srcu_free
}

impl Srcu for Domain {
    /// `srcu_read_lock`; `sx_slock`.
    fn lock(&self) -> usize {
        // SAFETY: initialised, and this value's until it is dropped.
        let token = unsafe { glue::wb_srcu_lock(self.0.as_ptr()) };
        token as usize
    }

    /// `srcu_read_lock`, which waits for nobody.
    #[cfg(feature = "notifications")]
    fn try_lock(&self) -> Option<usize> {
        Some(self.lock())
    }

    /// `srcu_read_unlock`; `sx_sunlock`.
    unsafe fn unlock(&self, token: usize) {
        // SAFETY: as for `lock`; the token is what `lock` returned.
        unsafe { glue::wb_srcu_unlock(self.0.as_ptr(), token as c_int) }
    }

    /// `synchronize_srcu_expedited`; `sx_xlock`, `sx_xunlock`.
    fn synchronize(&self) {
        // SAFETY: as for `lock`.
        unsafe { glue::wb_srcu_synchronize(self.0.as_ptr()) }
    }
}
