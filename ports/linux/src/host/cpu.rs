//! CPUs, interrupts between them, and sleeping.
use core::ffi::c_void;
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Cpu, CpuId, CpuSet, WaitQueue};

use super::{Linux, allocated};
use crate::glue::{self, QueueHead};

/// The interrupt flag in what `local_irq_save` saves.
const INTERRUPTS_ON: u64 = 1 << 9;

/// A closure for [`Cpu::call_on`], behind one pointer.
struct Call<'a>(&'a (dyn Fn(CpuId) + Sync));

/// Runs a [`Call`] on this CPU.
///
/// # Safety
///
/// `context` is a `Call` that outlives this call, and the thread stays on its
/// CPU.
unsafe extern "C" fn call_here(context: *mut c_void) {
    // SAFETY: as the caller promises.
    let call = unsafe { &*context.cast::<Call<'_>>() };
    let cpu = glue::wb_pin();
    (call.0)(cpu);
    // SAFETY: pairs with the `wb_pin` above.
    unsafe { glue::wb_unpin() }
}

// SAFETY: `get_cpu` keeps the thread on its CPU; `local_irq_save` keeps
// handlers away; `smp_call_function_many` waits until each CPU has run the
// call, which it does with interrupts on before.
unsafe impl Cpu for Linux {
    type WaitQueue = Queue;

    /// `get_cpu`.
    fn pin(&self) -> CpuId {
        glue::wb_pin()
    }

    /// `put_cpu`.
    unsafe fn unpin(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_unpin() }
    }

    /// `local_irq_save`.
    fn irq_disable(&self) -> bool {
        glue::wb_irq_save() & INTERRUPTS_ON != 0
    }

    /// `local_irq_restore`.
    unsafe fn irq_restore(&self, were_on: bool) {
        if were_on {
            // SAFETY: as the caller promises.
            unsafe { glue::wb_irq_restore(INTERRUPTS_ON) }
        }
    }

    /// `smp_send_reschedule` for each that is online.
    fn kick(&self, cpus: &CpuSet) {
        // SAFETY: the set has as many bits as the function reads.
        unsafe { glue::wb_kick(cpus.words().as_ptr()) }
    }

    /// `smp_call_function_many(wait = 1)`.
    fn kick_and_wait(&self, cpus: &CpuSet) {
        // SAFETY: registration refuses a host with more CPUs than the set has
        // bits, and the kernel reads no more of them than there are CPUs.
        unsafe { glue::wb_kick_and_wait(cpus.words().as_ptr()) }
    }

    /// `cpu_online_mask`.
    fn online(&self) -> CpuSet {
        let mut cpus = CpuSet::new();
        let mut cpu = glue::wb_next_online(0);
        while cpu < glue::wb_cpu_count() {
            cpus.insert(cpu);
            cpu = glue::wb_next_online(cpu + 1);
        }
        cpus
    }

    /// `cpus_read_lock`.
    fn hold_cpus(&self) {
        glue::wb_hold_cpus();
    }

    /// `cpus_read_unlock`.
    unsafe fn unhold_cpus(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_unhold_cpus() }
    }

    /// `on_each_cpu_mask`.
    fn call_on(&self, cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
        let call = Call(f);
        // SAFETY: as for `kick_and_wait`; it waits, so `call` lives as long as
        // it is used.
        unsafe {
            glue::wb_call_on(
                cpus.words().as_ptr(),
                call_here,
                (&raw const call).cast_mut().cast(),
            );
        }
    }

    /// `need_resched`.
    fn should_yield(&self) -> bool {
        glue::wb_should_yield()
    }

    /// `cond_resched`.
    fn yield_now(&self) {
        glue::wb_yield();
    }

    /// `signal_pending(current)`.
    fn signal_pending(&self) -> bool {
        glue::wb_signal_pending()
    }

    /// The flags that `need_resched` and `signal_pending` look at.
    fn held_up(&self) -> bool {
        glue::wb_held_up()
    }

    /// What the kernel has decided for its own guests.
    fn distrusts_predictions(&self) -> bool {
        glue::wb_distrusts_predictions()
    }

    /// `rdtsc`.
    fn tsc(&self) -> u64 {
        // SAFETY: every CPU of this kind has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// `tsc_khz`.
    fn tsc_khz(&self) -> u32 {
        // SAFETY: the kernel wrote it when it booted.
        unsafe { glue::tsc_khz }
    }

    /// `cr4_update_irqsoff`.
    unsafe fn change_cr4(&self, set: u64, clear: u64) -> bool {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_change_cr4(set, clear) }
        true
    }

    /// `invalidate_tss_limit`.
    fn task_register_was_cut(&self) {
        glue::wb_task_register_was_cut();
    }

    /// `init_swait_queue_head`.
    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        Ok(Queue(allocated(glue::wb_queue_new())?))
    }
}

/// A `struct swait_queue_head`.
pub struct Queue(NonNull<QueueHead>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

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
    /// `swait_event_interruptible_exclusive` and `swait_event_exclusive`.
    fn wait(&self, interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
        let ask = asking(&ready);
        // SAFETY: initialised, and this value's until it is dropped; `ready`
        // is lent for the call.
        unsafe { glue::wb_queue_wait(self.0.as_ptr(), interruptible, ask, (&raw mut ready).cast()) }
    }

    /// `swake_up_all`.
    fn wake(&self) -> bool {
        // SAFETY: as for `wait`.
        unsafe { glue::wb_queue_wake(self.0.as_ptr()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nobody has a handle any more, so nobody sleeps on it.
        unsafe { glue::wb_free(self.0.as_ptr().cast()) }
    }
}
