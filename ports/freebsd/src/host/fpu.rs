//! The guest's FPU state, kept by the kernel as it keeps a thread's.
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Fpu};

use super::{FreeBsd, allocated};
use crate::glue::{self, FpuStruct};

/// A `struct wb_fpu`.
pub struct GuestFpu(NonNull<FpuStruct>);

// SAFETY: the kernel's structure belongs to no thread while it is not loaded.
unsafe impl Send for GuestFpu {}

// SAFETY: from loading to unloading the kernel treats the guest's state as the
// thread's own: it saves it when another thread runs.
unsafe impl Fpu for FreeBsd {
    type GuestFpu = GuestFpu;

    /// `fpu_save_area_alloc`.
    fn new_guest_fpu(&self) -> Result<GuestFpu, AllocError> {
        Ok(GuestFpu(allocated(glue::wb_fpu_new())?))
    }

    /// `fpuexit`; the CPU gets the state when it needs it.
    fn load_guest_fpu(&self, fpu: &mut GuestFpu) {
        // SAFETY: initialised, and this value's; the caller pairs the calls.
        unsafe { glue::wb_fpu_load(fpu.0.as_ptr()) }
    }

    /// `fpuexit`; the same.
    fn unload_guest_fpu(&self, fpu: &mut GuestFpu) {
        // SAFETY: as above.
        unsafe { glue::wb_fpu_unload(fpu.0.as_ptr()) }
    }

    /// A copy of the save area.
    fn read_guest_fpu(&self, fpu: &GuestFpu, into: &mut [u8]) -> bool {
        // SAFETY: initialised, and not loaded: it is borrowed; the buffer has
        // that many bytes.
        unsafe { glue::wb_fpu_read(fpu.0.as_ptr(), into.as_mut_ptr(), into.len()) }
    }

    /// A check, and a copy to the save area.
    fn write_guest_fpu(&self, fpu: &mut GuestFpu, from: &[u8]) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_fpu_write(fpu.0.as_ptr(), from.as_ptr(), from.len()) }
    }

    /// `fpudna`, if the thread's state is not in the CPU.
    fn refresh_guest_fpu(&self) {
        glue::wb_fpu_refresh();
    }
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        // SAFETY: not loaded: it is no longer borrowed.
        unsafe { glue::wb_fpu_free(self.0.as_ptr()) }
    }
}
