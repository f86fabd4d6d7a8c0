//! CPUs and read sections. No CPU ever runs a guest here.
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use waterbear_hal::{AllocError, Cpu, CpuId, CpuSet, Rcu, Srcu, WaitQueue};

use super::SlimHost;

/// The most CPUs.
const CPUS: usize = 2;

thread_local! {
    static CPU: Cell<CpuId> = const { Cell::new(0) };
    /// How often preemption was switched off.
    static PREEMPT: Cell<u32> = const { Cell::new(0) };
    static INTERRUPTS: Cell<bool> = const { Cell::new(true) };
    /// How many RCU sections are open.
    static SECTIONS: Cell<u32> = const { Cell::new(0) };
}

/// Says which CPU this thread is on.
pub fn run_on(cpu: CpuId) {
    CPU.set(cpu);
}

// SAFETY: a thread is on the CPU that it was given and stays there; there are
// no interrupt handlers; no CPU enters a guest, so there is none to wait for.
unsafe impl Cpu for SlimHost {
    type WaitQueue = Queue;

    #[inline]
    fn pin(&self) -> CpuId {
        PREEMPT.set(PREEMPT.get() + 1);
        CPU.get()
    }

    #[inline]
    unsafe fn unpin(&self) {
        PREEMPT.set(PREEMPT.get() - 1);
    }

    #[inline]
    fn irq_disable(&self) -> bool {
        INTERRUPTS.replace(false)
    }

    #[inline]
    unsafe fn irq_restore(&self, were_on: bool) {
        INTERRUPTS.set(were_on);
    }

    fn kick(&self, _cpus: &CpuSet) {}

    fn kick_and_wait(&self, _cpus: &CpuSet) {}

    fn online(&self) -> CpuSet {
        let mut online = CpuSet::new();
        for cpu in 0..CPUS {
            online.insert(cpu as CpuId);
        }
        online
    }

    fn hold_cpus(&self) {}

    unsafe fn unhold_cpus(&self) {}

    fn call_on(&self, _cpus: &CpuSet, _f: &(dyn Fn(CpuId) + Sync)) {
        unimplemented!("nothing that is measured calls functions on CPUs");
    }

    #[inline]
    fn should_yield(&self) -> bool {
        // As a kernel looks at a flag of the thread.
        PREEMPT.get() > 1_000_000
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }

    #[inline]
    fn signal_pending(&self) -> bool {
        // As for `should_yield`.
        PREEMPT.get() > 1_000_000
    }

    fn tsc(&self) -> u64 {
        0
    }

    fn tsc_khz(&self) -> u32 {
        0
    }

    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        Ok(Queue)
    }
}

/// Nobody sleeps here: who waits asks again.
pub struct Queue;

impl WaitQueue for Queue {
    fn wait(&self, _interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
        fence(Ordering::SeqCst);
        while !ready() {
            std::thread::yield_now();
        }
        true
    }

    #[inline]
    fn wake(&self) -> bool {
        fence(Ordering::SeqCst);
        false
    }
}

// SAFETY: see the module's documentation: frames that are freed deferred are
// not used again before a barrier, and no section is open then. `synchronize`
// waits for every section to end.
unsafe impl Rcu for SlimHost {
    type Srcu = Sections;

    #[inline]
    fn rcu_lock(&self) {
        SECTIONS.set(SECTIONS.get() + 1);
    }

    #[inline]
    unsafe fn rcu_unlock(&self) {
        SECTIONS.set(SECTIONS.get() - 1);
    }

    fn rcu_barrier(&self) {
        self.free_deferred();
    }

    fn new_srcu(&self) -> Result<Sections, AllocError> {
        Ok(Sections::default())
    }
}

/// How many sections of one CPU are open, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Open(AtomicUsize);

/// Read sections that may sleep.
#[derive(Default)]
pub struct Sections([Open; CPUS]);

impl Srcu for Sections {
    #[inline]
    fn lock(&self) -> usize {
        let cpu = CPU.get() as usize % CPUS;
        // A kernel adds to a variable of its CPU and then has a full barrier;
        // SeqCst is both. Pairs with `synchronize`.
        self.0[cpu].0.fetch_add(1, Ordering::SeqCst);
        cpu
    }

    #[inline]
    unsafe fn unlock(&self, token: usize) {
        // Release: pairs with `synchronize`.
        self.0[token % CPUS].0.fetch_sub(1, Ordering::Release);
    }

    fn synchronize(&self) {
        // Pairs with `lock`: a section that is not seen open sees what was
        // written before.
        fence(Ordering::SeqCst);
        for open in &self.0 {
            while open.0.load(Ordering::Acquire) != 0 {
                std::thread::yield_now();
            }
        }
    }
}
