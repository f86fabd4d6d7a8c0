//! The functions written in C. `glue/glue.h` declares the same; what each of
//! them means stands at the HAL item that it implements.
use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

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
    /// `struct file`.
    FileStruct
}

/// What a descriptor is for.
#[repr(C)]
pub enum Kind {
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
}

/// A set of signals.
#[repr(C)]
#[derive(Default)]
pub struct Signals([u32; 4]);

unsafe extern "C" {
    pub static wb_direct_map: c_ulong;
    pub static tsc_freq: u64;
    pub safe fn wb_alloc_pages(count: c_ulong) -> *mut u8;
    pub fn wb_free_pages(pages: *mut u8, count: c_ulong);
    pub fn wb_free_page_deferred(page: *mut u8);
    pub fn wb_alloc(size: usize, alignment: usize) -> *mut u8;
    pub fn wb_free(memory: *mut u8);

    pub safe fn wb_rcu_lock();
    pub fn wb_rcu_unlock();
    pub safe fn wb_rcu_barrier();

    pub safe fn wb_mutex_new(rank: c_uint) -> *mut MutexStruct;
    pub fn wb_mutex_free(lock: *mut MutexStruct);
    pub fn wb_mutex_lock(lock: *mut MutexStruct);
    pub fn wb_mutex_lock_killable(lock: *mut MutexStruct) -> bool;
    pub fn wb_mutex_unlock(lock: *mut MutexStruct);
    pub fn wb_mutex_lock_shared(lock: *mut MutexStruct);
    pub fn wb_mutex_unlock_shared(lock: *mut MutexStruct);
    pub safe fn wb_rwlock_new(rank: c_uint) -> *mut RwLockStruct;
    pub fn wb_rwlock_free(lock: *mut RwLockStruct);
    pub fn wb_read_lock(lock: *mut RwLockStruct);
    pub fn wb_read_unlock(lock: *mut RwLockStruct);
    pub fn wb_write_lock(lock: *mut RwLockStruct);
    pub fn wb_write_unlock(lock: *mut RwLockStruct);
    pub fn wb_rwlock_contended(lock: *mut RwLockStruct) -> bool;

    pub safe fn wb_cpu() -> c_uint;
    pub safe fn wb_pin() -> c_uint;
    pub fn wb_unpin();
    pub safe fn wb_irq_save() -> c_ulong;
    pub fn wb_irq_restore(flags: c_ulong);
    pub fn wb_kick(cpus: *const u64);
    pub fn wb_kick_and_wait(cpus: *const u64);
    pub safe fn wb_cpu_count() -> c_uint;
    pub safe fn wb_is_online(cpu: c_uint) -> bool;
    pub fn wb_call_on(
        cpus: *const u64,
        call: unsafe extern "C" fn(*mut c_void),
        context: *mut c_void,
    );
    pub safe fn wb_task_register_was_cut();
    pub safe fn wb_boot_time() -> u64;
    pub safe fn wb_wall_time() -> u64;
    pub safe fn wb_tsc_is_stable() -> bool;
    pub safe fn wb_should_yield() -> bool;
    pub safe fn wb_yield();
    pub safe fn wb_signal_pending() -> bool;
    pub safe fn wb_signals_mask(mask: u64, before: &mut Signals);
    pub safe fn wb_signals_unmask(before: &Signals);
    pub safe fn wb_queue_new() -> *mut QueueStruct;
    pub fn wb_queue_wait(
        queue: *mut QueueStruct,
        interruptible: bool,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        context: *mut c_void,
    ) -> bool;
    pub fn wb_queue_wake(queue: *mut QueueStruct) -> bool;

    pub safe fn wb_fpu_new() -> *mut FpuStruct;
    pub fn wb_fpu_free(fpu: *mut FpuStruct);
    pub fn wb_fpu_load(fpu: *mut FpuStruct);
    pub fn wb_fpu_unload(fpu: *mut FpuStruct);
    pub safe fn wb_fpu_refresh();
    pub fn wb_fpu_read(fpu: *mut FpuStruct, into: *mut u8, size: usize) -> bool;
    pub fn wb_fpu_write(fpu: *mut FpuStruct, from: *const u8, size: usize) -> bool;

    pub safe fn wb_space_hold() -> *mut SpaceStruct;
    pub fn wb_space_drop(space: *mut SpaceStruct);
    pub fn wb_space_charge(space: *mut SpaceStruct, old: c_ulong, new: c_ulong) -> bool;
    pub safe fn wb_space_is_current(space: *mut SpaceStruct) -> bool;
    pub fn wb_resolve(
        space: *mut SpaceStruct,
        address: c_ulong,
        write: bool,
        pfn: *mut c_ulong,
        writable: *mut bool,
        uncached: *mut bool,
    ) -> bool;
    pub fn wb_release_page(pfn: c_ulong, dirty: bool);
    pub safe fn wb_share_with_children(start: c_ulong, size: c_ulong);
    pub fn wb_read(space: *mut SpaceStruct, to: *mut u8, from: c_ulong, size: usize) -> bool;
    pub fn wb_write(space: *mut SpaceStruct, to: c_ulong, from: *const u8, size: usize) -> bool;
    pub fn wb_exchange(
        space: *mut SpaceStruct,
        at: c_ulong,
        size: usize,
        old: *mut u64,
        new: u64,
    ) -> bool;
    pub fn wb_copy_in(to: *mut u8, from: c_ulong, size: usize) -> bool;
    pub fn wb_copy_out(to: c_ulong, from: *const u8, size: usize) -> bool;

    pub fn wb_info(text: *const u8, length: c_int);
    pub fn wb_bug(text: *const u8, length: c_int);
    pub fn wb_panic(text: *const u8, length: c_int) -> !;

    pub safe fn wb_node_add() -> c_int;
    pub safe fn wb_node_remove();
    pub fn wb_file_reserve(descriptor: *mut c_int, error: *mut c_int) -> *mut FileStruct;
    pub fn wb_file_install(file: *mut FileStruct, kind: Kind, object: *mut c_void);
    pub fn wb_file_cancel(file: *mut FileStruct, descriptor: c_int);
}

/// The number of a system call: not negative, or an error number, negated.
pub type Number = c_long;
