//! FreeBSD as a host: the HAL. Each item is one kernel call, mostly through a
//! function in `glue/`.
pub mod cpu;
pub mod fpu;
pub mod lock;
pub mod log;
pub mod memory;
pub mod rcu;
pub mod time;
pub mod user;

use core::ptr::NonNull;

use waterbear_hal::AllocError;

/// The host. There is one, so a handle is nothing.
#[derive(Clone, Copy)]
pub struct FreeBsd;

/// What an allocation in C returned.
fn allocated<T>(pointer: *mut T) -> Result<NonNull<T>, AllocError> {
    NonNull::new(pointer).ok_or(AllocError)
}
