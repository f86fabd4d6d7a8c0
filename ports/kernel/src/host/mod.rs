//! The kernel as a host: the HAL. Each item is one function in C, most of which
//! are one kernel call; those are named here, first Linux's and then FreeBSD's.
#[cfg(feature = "bells")]
pub mod bell;
pub mod cpu;
pub mod fpu;
pub mod lock;
pub mod log;
pub mod memory;
pub mod rcu;
pub mod time;
pub mod user;
pub mod wait;

use core::ptr::NonNull;

use waterbear_hal::AllocError;

/// The host. There is one, so a handle is nothing.
#[derive(Clone, Copy)]
pub struct Kernel;

/// What an allocation in C returned.
fn allocated<T>(pointer: *mut T) -> Result<NonNull<T>, AllocError> {
    NonNull::new(pointer).ok_or(AllocError)
}

/// A type for objects of the kernel's that are made to be shared, and go with their owner.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $of:ident, $free:ident) => {
        $(#[$doc])*
        pub struct $name(core::ptr::NonNull<$crate::glue::$of>);

        // SAFETY: the kernel's structure is made to be shared.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: it is this value's, and nobody has a handle any more.
                unsafe { $crate::glue::$free(self.0.as_ptr()) }
            }
        }
    };
}
use object;
