//! The CPUs. Each runs one thread, which nobody preempts.
use core::arch::asm;
use core::sync::atomic::Ordering;

use waterbear_hal::{AllocError, Cpu, CpuId, CpuSet};

use super::wait::Queue;
use super::{Bare, apic, call, percpu, timer};
use crate::traps::vector;

const INTERRUPTS_ON: u64 = 1 << 9;

/// Whether this CPU takes interrupts.
pub fn interrupts_are_on() -> bool {
    let flags: u64;
    // SAFETY: reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) }
    flags & INTERRUPTS_ON != 0
}

// SAFETY: a CPU has one thread, which stays there; `cli` keeps handlers away;
// `call::others` waits for the handler of each CPU.
unsafe impl Cpu for Bare {
    type WaitQueue = Queue;

    fn pin(&self) -> CpuId {
        percpu::this().number()
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
            // SAFETY: as the caller promises. The compiler must not move what
            // was done with interrupts off to behind it.
            unsafe { asm!("sti", options(nostack)) }
        }
    }

    fn kick(&self, cpus: &CpuSet) {
        for cpu in percpu::others(cpus) {
            apic::send(cpu, vector::KICK);
        }
    }

    fn kick_and_wait(&self, cpus: &CpuSet) {
        call::others(cpus, &|_| ());
    }

    fn online(&self) -> CpuSet {
        let mut cpus = CpuSet::new();
        (0..percpu::count()).for_each(|cpu| cpus.insert(cpu));
        cpus
    }

    // CPUs stay.
    fn hold_cpus(&self) {}

    unsafe fn unhold_cpus(&self) {}

    fn call_on(&self, cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
        call::others(cpus, f);
        let me = percpu::this().number();
        if cpus.contains(me) {
            let were_on = self.irq_disable();
            f(me);
            // SAFETY: pairs with the line above.
            unsafe { self.irq_restore(were_on) }
        }
    }

    fn should_yield(&self) -> bool {
        false
    }

    // There is no other thread, and who may sleep has interrupts on, so
    // handlers come in without help.
    fn yield_now(&self) {}

    fn signal_pending(&self) -> bool {
        percpu::this().signal.load(Ordering::Relaxed)
    }

    fn tsc(&self) -> u64 {
        // SAFETY: every CPU that has hardware virtualisation has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    fn tsc_khz(&self) -> u32 {
        u32::try_from(timer::tsc_rate()).unwrap_or(0)
    }

    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        Ok(Queue::new())
    }
}
