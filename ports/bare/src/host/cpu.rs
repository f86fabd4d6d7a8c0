//! The CPU. There is one, so kicks have nobody to go to and sleeping is
//! waiting for what cannot come.
use core::arch::asm;

use waterbear_hal::{AllocError, Cpu, CpuId, CpuSet, WaitQueue};

use super::Bare;

const INTERRUPTS_ON: u64 = 1 << 9;

// SAFETY: with one CPU every thread stays on it; `cli` keeps handlers away;
// there is no other CPU to wait for.
unsafe impl Cpu for Bare {
    type WaitQueue = Queue;

    fn pin(&self) -> CpuId {
        0
    }

    unsafe fn unpin(&self) {}

    fn irq_disable(&self) -> bool {
        let flags: u64;
        // SAFETY: reads the flags and turns interrupts off.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) }
        flags & INTERRUPTS_ON != 0
    }

    unsafe fn irq_restore(&self, were_on: bool) {
        if were_on {
            // SAFETY: as the caller promises.
            unsafe { asm!("sti", options(nomem, nostack)) }
        }
    }

    fn kick(&self, _cpus: &CpuSet) {}

    fn kick_and_wait(&self, _cpus: &CpuSet) {}

    fn online(&self) -> CpuSet {
        let mut cpus = CpuSet::new();
        cpus.insert(0);
        cpus
    }

    fn hold_cpus(&self) {}

    unsafe fn unhold_cpus(&self) {}

    fn call_on(&self, cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
        if cpus.contains(0) {
            let were_on = self.irq_disable();
            f(0);
            // SAFETY: pairs with the line above.
            unsafe { self.irq_restore(were_on) }
        }
    }

    fn should_yield(&self) -> bool {
        false
    }

    fn yield_now(&self) {}

    fn signal_pending(&self) -> bool {
        false
    }

    fn tsc(&self) -> u64 {
        // SAFETY: every CPU that has hardware virtualisation has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        Ok(Queue)
    }
}

/// Where nobody waits.
pub struct Queue;

impl WaitQueue for Queue {
    fn wait(&self, interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
        if !ready() && !interruptible {
            panic!("the only thread waits for itself");
        }
        ready()
    }

    fn wake(&self) -> bool {
        false
    }
}
