//! The functions written in C. `glue.h` declares the same; what each of them
//! means stands at the HAL item that it implements.
use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

use crate::errno::Numbers;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            pub struct $name {
                opaque: [u8; 0],
            }
        )*
    };
}

opaque! {
    /// `struct wb_srcu`.
    SrcuStruct
    /// `struct wb_mutex`.
    MutexStruct
    /// `struct wb_rwlock`.
    RwLockStruct
    /// `struct wb_queue`.
    QueueStruct
    /// `struct wb_fpu`.
    FpuStruct
    /// `struct wb_space`.
    SpaceStruct
    /// `struct wb_bell`.
    BellStruct
    /// The kernel's `struct file`.
    FileStruct
}

/// `struct wb_page`.
#[repr(C)]
#[derive(Default)]
pub struct FoundPage {
    /// The frame.
    pub pfn: c_ulong,
    /// Log2 of the bytes that one entry of the host's tables maps there.
    pub shift: c_uint,
    /// Whether the owner may write there.
    pub writable: bool,
    /// Whether the owner reaches it past the caches.
    pub uncached: bool,
}

/// `struct wb_signals`: a set of signals, as the kernel has it.
#[repr(C)]
#[derive(Default)]
pub struct Signals([u64; 2]);

/// What a descriptor is for: `enum wb_kind`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum Kind {
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
    /// Statistics.
    Stats,
}

/// What a system call returns: a number that is not negative, or an error,
/// negated.
pub type Number = c_long;

unsafe extern "C" {
    /// Numbers of errors that are not the same everywhere.
    pub safe static wb_numbers: Numbers;

    pub(crate) static wb_direct_map: c_ulong;
    pub(crate) safe fn wb_alloc_pages(count: c_ulong) -> *mut u8;
    pub(crate) fn wb_free_pages(pages: *mut u8, count: c_ulong);
    pub(crate) fn wb_free_page_deferred(page: *mut u8);
    pub(crate) safe fn wb_alloc(size: usize, alignment: usize) -> *mut u8;
    pub(crate) fn wb_free(memory: *mut u8);

    pub(crate) safe fn wb_rcu_lock();
    pub(crate) fn wb_rcu_unlock();
    pub(crate) safe fn wb_rcu_barrier();
    pub(crate) safe fn wb_srcu_new() -> *mut SrcuStruct;
    pub(crate) fn wb_srcu_free(domain: *mut SrcuStruct);
    pub(crate) fn wb_srcu_lock(domain: *mut SrcuStruct) -> c_int;
    pub(crate) fn wb_srcu_unlock(domain: *mut SrcuStruct, token: c_int);
    pub(crate) fn wb_srcu_synchronize(domain: *mut SrcuStruct);

    pub(crate) safe fn wb_mutex_new(rank: c_uint) -> *mut MutexStruct;
    pub(crate) fn wb_mutex_free(lock: *mut MutexStruct);
    pub(crate) fn wb_mutex_lock(lock: *mut MutexStruct);
    pub(crate) fn wb_mutex_lock_killable(lock: *mut MutexStruct) -> bool;
    pub(crate) fn wb_mutex_unlock(lock: *mut MutexStruct);
    pub(crate) safe fn wb_rwlock_new(rank: c_uint) -> *mut RwLockStruct;
    pub(crate) fn wb_rwlock_free(lock: *mut RwLockStruct);
    pub(crate) fn wb_read_lock(lock: *mut RwLockStruct);
    #[cfg(feature = "notifications")]
    pub(crate) fn wb_read_trylock(lock: *mut RwLockStruct) -> bool;
    pub(crate) fn wb_read_unlock(lock: *mut RwLockStruct);
    pub(crate) fn wb_write_lock(lock: *mut RwLockStruct);
    pub(crate) fn wb_write_unlock(lock: *mut RwLockStruct);
    pub(crate) fn wb_rwlock_contended(lock: *mut RwLockStruct) -> bool;

    pub(crate) safe fn wb_cpu() -> c_uint;
    pub(crate) safe fn wb_pin() -> c_uint;
    pub(crate) fn wb_unpin();
    pub(crate) safe fn wb_irq_save() -> c_ulong;
    pub(crate) fn wb_irq_restore(flags: c_ulong);
    pub(crate) fn wb_kick(cpus: *const u64);
    pub(crate) fn wb_call_on(
        cpus: *const u64,
        call: unsafe extern "C" fn(*mut c_void),
        context: *mut c_void,
    );
    pub(crate) safe fn wb_cpu_count() -> c_uint;
    pub(crate) safe fn wb_is_online(cpu: c_uint) -> bool;
    pub(crate) safe fn wb_hold_cpus();
    pub(crate) fn wb_unhold_cpus();
    pub(crate) fn wb_change_cr4(set: c_ulong, clear: c_ulong) -> bool;
    pub(crate) safe fn wb_task_register_was_cut();
    pub(crate) safe fn wb_distrusts_predictions() -> bool;

    pub(crate) safe fn wb_tsc_khz() -> c_uint;
    pub(crate) safe fn wb_tsc_is_stable() -> bool;
    pub(crate) safe fn wb_boot_time() -> u64;
    pub(crate) safe fn wb_wall_time() -> u64;

    pub(crate) safe fn wb_should_yield() -> bool;
    pub(crate) safe fn wb_yield();
    pub(crate) safe fn wb_signal_pending() -> bool;
    pub(crate) safe fn wb_held_up() -> bool;
    pub(crate) safe fn wb_signals_mask(mask: u64, before: &mut Signals);
    pub(crate) safe fn wb_signals_unmask(before: &Signals);
    pub(crate) safe fn wb_queue_new() -> *mut QueueStruct;
    pub(crate) fn wb_queue_free(queue: *mut QueueStruct);
    pub(crate) fn wb_queue_wait(
        queue: *mut QueueStruct,
        interruptible: bool,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        context: *mut c_void,
    ) -> bool;
    pub(crate) fn wb_queue_wake(queue: *mut QueueStruct) -> bool;

    pub(crate) safe fn wb_fpu_new() -> *mut FpuStruct;
    pub(crate) fn wb_fpu_free(fpu: *mut FpuStruct);
    pub(crate) fn wb_fpu_load(fpu: *mut FpuStruct);
    pub(crate) fn wb_fpu_unload(fpu: *mut FpuStruct);
    pub(crate) safe fn wb_fpu_refresh();
    pub(crate) fn wb_fpu_read(fpu: *mut FpuStruct, into: *mut u8, size: usize) -> bool;
    pub(crate) fn wb_fpu_write(fpu: *mut FpuStruct, from: *const u8, size: usize) -> bool;

    pub(crate) safe fn wb_space_hold() -> *mut SpaceStruct;
    pub(crate) fn wb_space_drop(space: *mut SpaceStruct);
    pub(crate) fn wb_space_is_current(space: *const SpaceStruct) -> bool;
    pub(crate) fn wb_space_watch(space: *mut SpaceStruct, vm: *const c_void) -> c_int;
    pub(crate) fn wb_space_unwatch(space: *mut SpaceStruct);
    pub(crate) fn wb_resolve(
        space: *mut SpaceStruct,
        address: c_ulong,
        write: bool,
        found: &mut FoundPage,
    ) -> c_int;
    pub(crate) fn wb_release_page(pfn: c_ulong, dirty: bool);
    pub(crate) fn wb_read(space: *mut SpaceStruct, to: *mut u8, from: c_ulong, size: usize)
    -> bool;
    pub(crate) fn wb_write(
        space: *mut SpaceStruct,
        to: c_ulong,
        from: *const u8,
        size: usize,
    ) -> bool;
    pub(crate) fn wb_exchange(
        space: *mut SpaceStruct,
        at: c_ulong,
        size: usize,
        old: &mut u64,
        new: u64,
    ) -> bool;
    pub(crate) fn wb_copy_in(to: *mut u8, from: c_ulong, size: usize) -> bool;
    pub(crate) fn wb_copy_out(to: c_ulong, from: *const u8, size: usize) -> bool;

    pub(crate) fn wb_info(text: *const u8, length: c_int);
    pub(crate) fn wb_bug(text: *const u8, length: c_int);

    pub(crate) safe fn wb_node_add() -> c_int;
    pub(crate) safe fn wb_node_remove();
    pub(crate) safe fn wb_watch_cpus() -> c_int;
    pub(crate) safe fn wb_unwatch_cpus();
    pub(crate) safe fn wb_file_reserve(kind: Kind, descriptor: &mut c_int) -> *mut FileStruct;
    pub(crate) fn wb_file_install(
        file: *mut FileStruct,
        descriptor: c_int,
        kind: Kind,
        object: *mut c_void,
    );
    pub(crate) fn wb_file_cancel(file: *mut FileStruct, descriptor: c_int);
}

#[cfg(feature = "notifications")]
unsafe extern "C" {
    pub(crate) fn wb_resolve_now(space: *mut SpaceStruct, address: c_ulong) -> c_ulong;
    pub(crate) fn wb_read_now(
        space: *mut SpaceStruct,
        from: *const c_ulong,
        to: *mut u64,
        count: usize,
    ) -> bool;
}

#[cfg(feature = "bells")]
unsafe extern "C" {
    pub(crate) safe fn wb_bell_get(descriptor: c_int, error: &mut c_int) -> *mut BellStruct;
    pub(crate) fn wb_bell_ring(bell: *mut BellStruct);
    pub(crate) fn wb_bell_put(bell: *mut BellStruct);
}
