//! CPUs, and interrupts between them.
use core::ffi::c_void;
use core::ptr;

use waterbear_hal::{AllocError, Cpu, CpuId, CpuSet};

use super::wait::Queue;
use super::{Kernel, allocated};
use crate::glue;

/// The interrupt flag in what the kernels save.
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
    (call.0)(glue::wb_cpu());
}

/// Does nothing, on this CPU.
unsafe extern "C" fn taken(_context: *mut c_void) {}

// SAFETY: the kernels keep a pinned thread on its CPU, and handlers away while
// interrupts are off; they wait until each CPU has run a call, which it does
// with interrupts on before.
unsafe impl Cpu for Kernel {
    type WaitQueue = Queue;

    /// `get_cpu`; `critical_enter`.
    fn pin(&self) -> CpuId {
        glue::wb_pin()
    }

    /// `put_cpu`; `critical_exit`.
    unsafe fn unpin(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_unpin() }
    }

    /// `local_irq_save`; `intr_disable`.
    fn irq_disable(&self) -> bool {
        glue::wb_irq_save() & INTERRUPTS_ON != 0
    }

    /// `local_irq_restore`; `intr_restore`.
    unsafe fn irq_restore(&self, were_on: bool) {
        if were_on {
            // SAFETY: as the caller promises.
            unsafe { glue::wb_irq_restore(INTERRUPTS_ON) }
        }
    }

    /// `smp_send_reschedule` for each that is online; `ipi_selected` with a vector of our own.
    fn kick(&self, cpus: &CpuSet) {
        // SAFETY: the set has as many bits as the function reads.
        unsafe { glue::wb_kick(cpus.words().as_ptr()) }
    }

    /// As `call_on`.
    fn kick_and_wait(&self, cpus: &CpuSet) {
        // SAFETY: as for `call_on`.
        unsafe { glue::wb_call_on(cpus.words().as_ptr(), taken, ptr::null_mut()) }
    }

    /// `cpu_online_mask`; `all_cpus`.
    fn online(&self) -> CpuSet {
        let mut cpus = CpuSet::new();
        for cpu in (0..glue::wb_cpu_count()).filter(|&cpu| glue::wb_is_online(cpu)) {
            cpus.insert(cpu);
        }
        cpus
    }

    /// `cpus_read_lock`; nothing: CPUs stay.
    fn hold_cpus(&self) {
        glue::wb_hold_cpus();
    }

    /// `cpus_read_unlock`; nothing.
    unsafe fn unhold_cpus(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_unhold_cpus() }
    }

    /// `on_each_cpu_mask`; `smp_rendezvous_cpus`.
    fn call_on(&self, cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
        let call = Call(f);
        let context = (&raw const call).cast_mut().cast();
        // SAFETY: registration refuses a host with more CPUs than the set has
        // bits, and the kernel reads no more of them than there are CPUs. It
        // waits, so `call` lives as long as it is used.
        unsafe { glue::wb_call_on(cpus.words().as_ptr(), call_here, context) }
    }

    /// `need_resched`; `td_ast`, `td_owepreempt`.
    fn should_yield(&self) -> bool {
        glue::wb_should_yield()
    }

    /// `cond_resched`; `kern_yield`.
    fn yield_now(&self) {
        glue::wb_yield();
    }

    /// `signal_pending(current)`; `td_ast`, but for what `yield_now` takes up.
    fn signal_pending(&self) -> bool {
        glue::wb_signal_pending()
    }

    /// The flags that `should_yield` and `signal_pending` look at.
    fn held_up(&self) -> bool {
        glue::wb_held_up()
    }

    /// What the kernel has decided for its own guests; always.
    fn distrusts_predictions(&self) -> bool {
        glue::wb_distrusts_predictions()
    }

    /// `rdtsc`.
    fn tsc(&self) -> u64 {
        // SAFETY: every CPU of this kind has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// `tsc_khz`; `tsc_freq`.
    fn tsc_khz(&self) -> u32 {
        glue::wb_tsc_khz()
    }

    /// `cr4_update_irqsoff`; false.
    unsafe fn change_cr4(&self, set: u64, clear: u64) -> bool {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_change_cr4(set, clear) }
    }

    /// `invalidate_tss_limit`; `ltr`.
    fn task_register_was_cut(&self) {
        glue::wb_task_register_was_cut();
    }

    /// `init_swait_queue_head`; nothing: the kernel finds a queue by its address.
    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        Ok(Queue::new(allocated(glue::wb_queue_new())?))
    }
}
