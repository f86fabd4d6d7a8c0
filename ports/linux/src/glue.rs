//! The functions written in C. `glue/glue.h` declares the same; what each of
//! them means stands at the HAL item that it implements.
use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

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
    /// `struct srcu_struct`.
    SrcuStruct
    /// `struct mutex`.
    MutexStruct
    /// `rwlock_t`.
    RwLockStruct
    /// `struct swait_queue_head`.
    QueueHead
    /// `struct fpu_guest`.
    FpuGuest
    /// `struct mm_struct`.
    MmStruct
    /// `struct file`.
    FileStruct
    /// `struct eventfd_ctx`.
    EventfdContext
    /// `struct wb_notifier`.
    NotifierStruct
}

/// `struct wb_page`.
#[repr(C)]
#[derive(Default)]
pub struct FoundPage {
    pub pfn: c_ulong,
    /// Of the piece that one entry of the host's tables maps.
    pub shift: c_uint,
    pub writable: bool,
    pub uncached: bool,
}

/// What a descriptor is for.
#[repr(C)]
pub enum Kind {
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
    /// Statistics.
    Stats,
}

unsafe extern "C" {
    pub static wb_direct_map: c_ulong;
    /// The kernel's own.
    pub static tsc_khz: c_uint;
    pub fn wb_alloc_page() -> *mut u8;
    pub fn wb_free_page(page: *mut u8);
    pub fn wb_free_page_deferred(page: *mut u8);
    pub fn wb_alloc_pages(size: usize) -> *mut u8;
    pub fn wb_free_pages(pages: *mut u8, size: usize);
    pub fn wb_alloc(size: usize) -> *mut u8;
    pub fn wb_free(memory: *mut u8);

    pub safe fn wb_rcu_lock();
    pub fn wb_rcu_unlock();
    pub safe fn wb_rcu_barrier();
    pub safe fn wb_srcu_new() -> *mut SrcuStruct;
    pub fn wb_srcu_free(domain: *mut SrcuStruct);
    pub fn wb_srcu_lock(domain: *mut SrcuStruct) -> c_int;
    pub fn wb_srcu_unlock(domain: *mut SrcuStruct, token: c_int);
    pub fn wb_srcu_synchronize(domain: *mut SrcuStruct);

    pub fn wb_mutex_new(name: *const c_char, rank: c_uint) -> *mut MutexStruct;
    pub fn wb_mutex_lock(lock: *mut MutexStruct);
    pub fn wb_mutex_lock_killable(lock: *mut MutexStruct) -> bool;
    pub fn wb_mutex_unlock(lock: *mut MutexStruct);
    pub fn wb_rwlock_new(name: *const c_char, rank: c_uint) -> *mut RwLockStruct;
    pub fn wb_read_lock(lock: *mut RwLockStruct);
    pub fn wb_read_trylock(lock: *mut RwLockStruct) -> bool;
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
    pub safe fn wb_next_online(from: c_uint) -> c_uint;
    pub safe fn wb_hold_cpus();
    pub fn wb_unhold_cpus();
    pub fn wb_call_on(
        cpus: *const u64,
        call: unsafe extern "C" fn(*mut c_void),
        context: *mut c_void,
    );
    pub fn wb_change_cr4(set: c_ulong, clear: c_ulong);
    pub safe fn wb_task_register_was_cut();
    pub safe fn wb_should_yield() -> bool;
    pub safe fn wb_yield();
    pub safe fn wb_signal_pending() -> bool;
    pub safe fn wb_held_up() -> bool;
    pub safe fn wb_distrusts_predictions() -> bool;
    pub safe fn wb_signals_mask(mask: u64);
    pub safe fn wb_signals_unmask();
    pub safe fn wb_boot_time() -> u64;
    pub safe fn wb_wall_time() -> u64;
    pub safe fn wb_tsc_is_stable() -> bool;
    pub safe fn wb_queue_new() -> *mut QueueHead;
    pub fn wb_queue_wait(
        queue: *mut QueueHead,
        interruptible: bool,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        context: *mut c_void,
    ) -> bool;
    pub fn wb_queue_wake(queue: *mut QueueHead) -> bool;

    pub safe fn wb_fpu_new() -> *mut FpuGuest;
    pub fn wb_fpu_free(fpu: *mut FpuGuest);
    pub safe fn wb_fpu_refresh();
    pub fn wb_fpu_read(fpu: *mut FpuGuest, into: *mut u8, size: usize) -> bool;
    pub fn wb_fpu_write(fpu: *mut FpuGuest, from: *const u8, size: usize) -> bool;
    pub fn wb_fpu_swap(fpu: *mut FpuGuest, enter: bool);

    pub safe fn wb_mm_hold() -> *mut MmStruct;
    pub fn wb_mm_drop(mm: *mut MmStruct);
    pub safe fn wb_mm_is_current(mm: *mut MmStruct) -> bool;
    pub fn wb_resolve(
        mm: *mut MmStruct,
        address: c_ulong,
        write: bool,
        found: *mut FoundPage,
    ) -> c_long;
    pub fn wb_resolve_now(mm: *mut MmStruct, address: c_ulong) -> c_ulong;
    pub fn wb_release_page(pfn: c_ulong, dirty: bool);
    pub fn wb_read(mm: *mut MmStruct, to: *mut u8, from: c_ulong, size: usize) -> bool;
    pub fn wb_read_now(mm: *mut MmStruct, from: *const c_ulong, to: *mut u64, count: usize)
    -> bool;
    pub fn wb_write(mm: *mut MmStruct, to: c_ulong, from: *const u8, size: usize) -> bool;
    pub fn wb_exchange(
        mm: *mut MmStruct,
        at: c_ulong,
        size: usize,
        old: *mut u64,
        new: u64,
    ) -> bool;
    pub fn wb_copy_in(to: *mut u8, from: c_ulong, size: usize) -> bool;
    pub fn wb_copy_out(to: c_ulong, from: *const u8, size: usize) -> bool;

    pub fn wb_bell_get(descriptor: c_int, error: *mut c_int) -> *mut EventfdContext;
    pub fn wb_bell_ring(bell: *mut EventfdContext);
    pub fn wb_bell_put(bell: *mut EventfdContext);

    pub safe fn wb_notifier_new() -> *mut NotifierStruct;
    pub fn wb_notifier_start(notifier: *mut NotifierStruct, vm: *const c_void) -> c_int;
    pub fn wb_notifier_free(notifier: *mut NotifierStruct);

    pub fn wb_info(text: *const u8, length: c_int);
    pub fn wb_bug(text: *const u8, length: c_int);

    pub safe fn wb_node_add() -> c_int;
    pub safe fn wb_node_remove();
    pub safe fn wb_watch_cpus() -> c_int;
    pub safe fn wb_unwatch_cpus();
    pub fn wb_file_new(kind: Kind, object: *mut c_void, descriptor: *mut c_int) -> *mut FileStruct;
    pub fn wb_file_install(file: *mut FileStruct, descriptor: c_int);
    pub fn wb_file_drop(file: *mut FileStruct, descriptor: c_int);
}
