//! Sleeping.
use core::ffi::c_void;
use core::ptr::NonNull;

use waterbear_hal::WaitQueue;

use super::object;
use crate::glue::{self, QueueStruct};

object! {
    /// A `struct wb_queue`.
    Queue, QueueStruct, wb_queue_free
}

impl Queue {
    /// One that C has made.
    pub(super) fn new(queue: NonNull<QueueStruct>) -> Self {
        Self(queue)
    }
}

/// Asks a closure of that type.
///
/// # Safety
///
/// `context` is an `F` that nobody else uses.
unsafe extern "C" fn ask<F: FnMut() -> bool>(context: *mut c_void) -> bool {
    // SAFETY: as the caller promises.
    let ready = unsafe { &mut *context.cast::<F>() };
    ready()
}

/// The function that asks `ready`.
fn asking<F: FnMut() -> bool>(_ready: &F) -> unsafe extern "C" fn(*mut c_void) -> bool {
    ask::<F>
}

impl WaitQueue for Queue {
    /// `swait_event_interruptible_exclusive` and `swait_event_exclusive`;
    /// `sleepq_wait_sig` and `sleepq_wait`.
    fn wait(&self, interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
        let (queue, ask) = (self.0.as_ptr(), asking(&ready));
        // SAFETY: initialised, and this value's until it is dropped; `ready`
        // is lent for the call.
        unsafe { glue::wb_queue_wait(queue, interruptible, ask, (&raw mut ready).cast()) }
    }

    /// `swake_up_all`; `sleepq_broadcast`.
    fn wake(&self) -> bool {
        // SAFETY: as for `wait`.
        unsafe { glue::wb_queue_wake(self.0.as_ptr()) }
    }
}
