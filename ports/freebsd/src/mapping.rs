//! Mappings of a vCPU's memory, which may outlive the VM.
use core::ffi::c_void;
use core::ptr;

use waterbear_core::mem::{Box, Heap, boxed};
use waterbear_kernel::files::Token;
use waterbear_kernel::host::Kernel;
use waterbear_kernel::machine;

/// Memory of a vCPU is about to be mapped. The kernel calls the module when the
/// mapping ends: so it counts as a VM, and this is its token. Null if there is
/// none to be had.
#[unsafe(no_mangle)]
extern "C" fn waterbear_mapping_begin() -> *mut c_void {
    let token = machine::get().and_then(|machine| machine.registry.vm_created().ok());
    let token = token.and_then(|token| boxed(&Kernel, token).ok());
    token.map_or(ptr::null_mut(), |token| {
        Box::into_raw_with_allocator(token).0.cast()
    })
}

/// The mapping is gone.
///
/// # Safety
///
/// `token` came from `waterbear_mapping_begin` and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_mapping_end(token: *mut c_void) {
    // SAFETY: as the caller promises.
    drop(unsafe { Box::<Token, Kernel>::from_raw_in(token.cast(), Heap(Kernel)) });
}
