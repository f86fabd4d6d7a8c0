//! What the kernel tells of the memory of a VM's owner. Linux: `mmu_notifier_ops`.
//!
//! # Safety
//!
//! `vm` is what `watch` was called with. It is there until `unwatch` is over,
//! which waits for those who are here.
use core::ffi::{c_ulong, c_void};
use core::ops::Range;

use waterbear_core::tdp::walk::Yielding;
use waterbear_core::vm::Vm;
use waterbear_hal::Hva;

use crate::host::Kernel;

/// The VM that hears.
///
/// # Safety
///
/// As the module says.
unsafe fn notified<'a>(vm: *const c_void) -> &'a Vm<Kernel> {
    // SAFETY: as the caller promises.
    unsafe { &*vm.cast() }
}

fn addresses(start: c_ulong, end: c_ulong) -> Range<Hva> {
    Hva(start)..Hva(end)
}

/// The kernel is about to change the owner's memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_change_begin(
    vm: *const c_void,
    start: c_ulong,
    end: c_ulong,
    may_sleep: bool,
) {
    let yielding = if may_sleep {
        Yielding::Allowed
    } else {
        Yielding::Forbidden
    };
    // SAFETY: a notification.
    unsafe { notified(vm) }.invalidate_begin(addresses(start, end), yielding);
}

/// The kernel has changed the owner's memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_change_end(vm: *const c_void, start: c_ulong, end: c_ulong) {
    // SAFETY: a notification.
    unsafe { notified(vm) }.invalidate_end(addresses(start, end));
}

/// The kernel looks for pages to reclaim.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_age(vm: *const c_void, start: c_ulong, end: c_ulong) -> bool {
    // SAFETY: a notification.
    unsafe { notified(vm) }.age(addresses(start, end))
}

/// The kernel asks whether a page is in use.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_is_young(vm: *const c_void, start: c_ulong, end: c_ulong) -> bool {
    // SAFETY: a notification.
    unsafe { notified(vm) }.is_young(addresses(start, end))
}
