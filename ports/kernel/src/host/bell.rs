//! Descriptors that the kernel rings.
use waterbear_hal::{Bell, BellError};

use super::object;
use crate::errno::EBADF;
use crate::glue;

object! {
    /// A `struct eventfd_ctx`, with a reference.
    Eventfd, BellStruct, wb_bell_put
}

impl Eventfd {
    /// That of a descriptor of the calling process.
    pub(super) fn of(descriptor: i32) -> Result<Self, BellError> {
        let mut error = 0;
        let found = glue::wb_bell_get(descriptor, &mut error);
        core::ptr::NonNull::new(found)
            .map(Self)
            .ok_or(if -error == EBADF {
                BellError::NoDescriptor
            } else {
                BellError::NotABell
            })
    }
}

impl Bell for Eventfd {
    /// `eventfd_signal`.
    fn ring(&self) {
        // SAFETY: the reference keeps it.
        unsafe { glue::wb_bell_ring(self.0.as_ptr()) }
    }

    fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
