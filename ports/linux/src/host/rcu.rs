//! Read sections.
use core::ffi::c_int;
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Rcu, Srcu};

use super::{Linux, allocated};
use crate::glue::{self, SrcuStruct};

// SAFETY: a table that is freed with `call_rcu` outlives every section of
// `rcu_read_lock` that began before, and SRCU waits as it says.
unsafe impl Rcu for Linux {
    type Srcu = Domain;

    /// `rcu_read_lock`.
    fn rcu_lock(&self) {
        glue::wb_rcu_lock();
    }

    /// `rcu_read_unlock`.
    unsafe fn rcu_unlock(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_rcu_unlock() }
    }

    /// `rcu_barrier`.
    fn rcu_barrier(&self) {
        glue::wb_rcu_barrier();
    }

    /// `init_srcu_struct`.
    fn new_srcu(&self) -> Result<Domain, AllocError> {
        Ok(Domain(allocated(glue::wb_srcu_new())?))
    }
}

/// A `struct srcu_struct`.
pub struct Domain(NonNull<SrcuStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Srcu for Domain {
    /// `srcu_read_lock`.
    fn lock(&self) -> usize {
        // SAFETY: initialised, and this value's until it is dropped.
        let token = unsafe { glue::wb_srcu_lock(self.0.as_ptr()) };
        token as usize
    }

    /// `srcu_read_lock`, which waits for nobody.
    fn try_lock(&self) -> Option<usize> {
        Some(self.lock())
    }

    /// `srcu_read_unlock`.
    unsafe fn unlock(&self, token: usize) {
        // SAFETY: as for `lock`; the token is what `lock` returned.
        unsafe { glue::wb_srcu_unlock(self.0.as_ptr(), token as c_int) }
    }

    /// `synchronize_srcu_expedited`.
    fn synchronize(&self) {
        // SAFETY: as for `lock`.
        unsafe { glue::wb_srcu_synchronize(self.0.as_ptr()) }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: nobody has a handle any more, so no section is open.
        unsafe { glue::wb_srcu_free(self.0.as_ptr()) }
    }
}
