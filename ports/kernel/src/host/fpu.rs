//! The guest's FPU state, kept by the kernel as it keeps a thread's.
use waterbear_hal::{AllocError, Fpu};

use super::{Kernel, allocated, object};
use crate::glue;

object! {
    /// A `struct wb_fpu`.
    GuestFpu, FpuStruct, wb_fpu_free
}

// SAFETY: from loading to unloading the kernels treat the guest's state as the
// thread's own: they save it when another thread runs.
unsafe impl Fpu for Kernel {
    type GuestFpu = GuestFpu;

    /// `fpu_alloc_guest_fpstate`; `fpu_save_area_alloc`.
    fn new_guest_fpu(&self) -> Result<GuestFpu, AllocError> {
        Ok(GuestFpu(allocated(glue::wb_fpu_new())?))
    }

    /// `fpu_swap_kvm_fpstate(.., true)`; `fpuexit`, and the CPU gets the state when it needs it.
    fn load_guest_fpu(&self, fpu: &mut GuestFpu) {
        // SAFETY: initialised, and this value's; the caller pairs the calls.
        unsafe { glue::wb_fpu_load(fpu.0.as_ptr()) }
    }

    /// `fpu_swap_kvm_fpstate(.., false)`; `fpuexit`, and the same.
    fn unload_guest_fpu(&self, fpu: &mut GuestFpu) {
        // SAFETY: as above.
        unsafe { glue::wb_fpu_unload(fpu.0.as_ptr()) }
    }

    /// `fpu_copy_guest_fpstate_to_uabi`; a copy of the save area.
    fn read_guest_fpu(&self, fpu: &GuestFpu, into: &mut [u8]) -> bool {
        // SAFETY: initialised, and not loaded: it is borrowed; the buffer has
        // that many bytes.
        unsafe { glue::wb_fpu_read(fpu.0.as_ptr(), into.as_mut_ptr(), into.len()) }
    }

    /// `fpu_copy_uabi_to_guest_fpstate`; a check, and a copy to the save area.
    fn write_guest_fpu(&self, fpu: &mut GuestFpu, from: &[u8]) -> bool {
        // SAFETY: as above.
        unsafe { glue::wb_fpu_write(fpu.0.as_ptr(), from.as_ptr(), from.len()) }
    }

    /// `switch_fpu_return`; `fpudna`. If the thread's state is not in the CPU.
    fn refresh_guest_fpu(&self) {
        glue::wb_fpu_refresh();
    }
}
