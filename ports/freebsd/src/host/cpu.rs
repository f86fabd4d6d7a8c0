//! CPUs, interrupts between them, and sleeping.
use core::ffi::c_void;
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Cpu, CpuId, CpuSet, WaitQueue};

use super::{FreeBsd, allocated};
use crate::glue::{self, QueueStruct};

/// The interrupt flag in what `intr_disable` returns.
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

// SAFETY: a critical section keeps the thread on its CPU; `intr_disable` keeps
// handlers away; `smp_rendezvous_cpus` waits until each CPU has run the call,
// which it does with interrupts on before.
unsafe impl Cpu for FreeBsd {
    type WaitQueue = Queue;

    /// `critical_enter`.
    fn pin(&self) -> CpuId {
        glue::wb_pin()
    }

    /// `critical_exit`.
    unsafe fn unpin(&self) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_unpin() }
    }

    /// `intr_disable`.
    fn irq_disable(&self) -> bool {
        glue::wb_irq_save() & INTERRUPTS_ON != 0
    }

    /// `intr_restore`.
    unsafe fn irq_restore(&self, were_on: bool) {
        if were_on {
            // SAFETY: as the caller promises.
            unsafe { glue::wb_irq_restore(INTERRUPTS_ON) }
        }
    }

    /// `ipi_selected` with a vector of our own.
    fn kick(&self, cpus: &CpuSet) {
        // SAFETY: the set has as many bits as the function reads.
        unsafe { glue::wb_kick(cpus.words().as_ptr()) }
    }

    /// `smp_rendezvous_cpus`.
    fn kick_and_wait(&self, cpus: &CpuSet) {
        // SAFETY: the set has as many bits as the function reads.
        unsafe { glue::wb_kick_and_wait(cpus.words().as_ptr()) }
    }

    /// `all_cpus`.
    fn online(&self) -> CpuSet {
        let mut cpus = CpuSet::new();
        for cpu in (0..glue::wb_cpu_count()).filter(|&cpu| glue::wb_is_online(cpu)) {
            cpus.insert(cpu);
        }
        cpus
    }

    /// Nothing: CPUs stay.
    fn hold_cpus(&self) {}

    /// Nothing.
    unsafe fn unhold_cpus(&self) {}

    /// `smp_rendezvous_cpus`.
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

    /// `td_ast`, `td_owepreempt`.
    fn should_yield(&self) -> bool {
        glue::wb_should_yield()
    }

    /// `kern_yield`.
    fn yield_now(&self) {
        glue::wb_yield();
    }

    /// `td_ast`, but for what `yield_now` takes up.
    fn signal_pending(&self) -> bool {
        glue::wb_signal_pending()
    }

    /// `rdtsc`.
    fn tsc(&self) -> u64 {
        // SAFETY: every CPU of this kind has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// `tsc_freq`.
    fn tsc_khz(&self) -> u32 {
        // SAFETY: the kernel found it out before it loads modules.
        let hertz = unsafe { glue::tsc_freq };
        u32::try_from(hertz / 1000).unwrap_or(0)
    }

    /// `ltr`.
    fn task_register_was_cut(&self) {
        glue::wb_task_register_was_cut();
    }

    /// The kernel finds a queue by its address.
    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        Ok(Queue(allocated(glue::wb_queue_new())?))
    }
}

/// A `struct wb_queue`.
pub struct Queue(NonNull<QueueStruct>);

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
    /// `sleepq_wait_sig` and `sleepq_wait`.
    fn wait(&self, interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
        let ask = asking(&ready);
        // SAFETY: initialised, and this value's until it is dropped; `ready`
        // is lent for the call.
        unsafe { glue::wb_queue_wait(self.0.as_ptr(), interruptible, ask, (&raw mut ready).cast()) }
    }

    /// `sleepq_broadcast`.
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
