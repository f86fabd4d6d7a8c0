//! CPUs: which one a thread runs on, interrupts, and hotplug.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use waterbear_hal::cpu::{CpuId, CpuSet};
use waterbear_hal::{AllocError, Cpu};

use crate::interrupt::SimCpu;
use crate::raw_lock::Shared;
use crate::sys::{self, book};
use crate::wait_queue::Queue;
use crate::{Mock, broken};

/// All CPUs of a machine.
pub(crate) struct Cpus {
    cpus: Box<[SimCpu]>,
    online: Mutex<CpuSet>,
    hotplug: Shared,
    /// Calls that sent interrupts.
    kicks: AtomicU64,
    /// Every n-th question about contention is answered with yes; 0: none.
    contend_every: AtomicU64,
    /// So many questions more are answered with yes.
    contend_next: AtomicU64,
    questions: AtomicU64,
    /// A signal waits for every thread.
    signal: AtomicBool,
    /// It is one that ends their process.
    dying: AtomicBool,
    /// How often the time-stamp counter was read.
    tsc: AtomicU64,
    tsc_khz: AtomicU32,
}

impl Cpus {
    pub(crate) fn new(count: u32) -> Self {
        let mut online = CpuSet::new();
        (0..count).for_each(|cpu| online.insert(cpu));
        Self {
            cpus: (0..count).map(|_| SimCpu::default()).collect(),
            online: Mutex::new(online),
            hotplug: Shared::default(),
            kicks: AtomicU64::new(0),
            contend_every: AtomicU64::new(0),
            contend_next: AtomicU64::new(0),
            questions: AtomicU64::new(0),
            signal: AtomicBool::new(false),
            dying: AtomicBool::new(false),
            tsc: AtomicU64::new(0),
            tsc_khz: AtomicU32::new(2_000_000),
        }
    }

    #[track_caller]
    fn get(&self, cpu: CpuId) -> &SimCpu {
        match self.cpus.get(cpu as usize) {
            Some(cpu) => cpu,
            None => panic!("this machine has no CPU {cpu}"),
        }
    }

    #[track_caller]
    fn online_of(&self, set: &CpuSet) -> Vec<CpuId> {
        if set.overflowed() {
            broken!("an interrupt for a CPU whose number is out of range");
        }
        let online = book(&self.online);
        set.iter().filter(|&cpu| online.contains(cpu)).collect()
    }

    /// Whether every thread has been killed.
    #[cfg(not(loom))]
    pub(crate) fn dying(&self) -> bool {
        self.dying.load(Relaxed)
    }

    /// Whether a test wants the next question about contention answered with
    /// yes.
    pub(crate) fn pretends_contention(&self) -> bool {
        // A look first: it is asked after every entry of a walk.
        let forced = self.contend_next.load(Relaxed) != 0
            && self
                .contend_next
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok();
        let every = self.contend_every.load(Relaxed);
        forced || every != 0 && self.questions.fetch_add(1, Relaxed) % every == every - 1
    }
}

// SAFETY: a thread changes CPU only in `run_on`, which refuses while it is
// pinned; one thread at a time has a CPU's interrupts off, and the mock runs no
// handlers; `kick_and_wait` waits for the section that was under way.
unsafe impl<const NOTIFIER: bool> Cpu for Mock<NOTIFIER> {
    type WaitQueue = Queue;

    fn pin(&self) -> CpuId {
        let thread = self.0.thread();
        let (cpu, pins) = (thread.cpu.get(), thread.pins.get());
        if pins == 0 && !thread.irqs_off.get() {
            self.0.cpus.get(cpu).wait_for_turn();
        }
        thread.pins.set(pins + 1);
        cpu
    }

    #[track_caller]
    unsafe fn unpin(&self) {
        if sys::model_failed() {
            return;
        }
        let thread = self.0.thread();
        match thread.pins.get().checked_sub(1) {
            Some(pins) => thread.pins.set(pins),
            None => broken!("unpin without pin"),
        }
    }

    fn irq_disable(&self) -> bool {
        let thread = self.0.thread();
        if thread.irqs_off.get() {
            return false;
        }
        self.0.cpus.get(thread.cpu.get()).disable();
        thread.irqs_off.set(true);
        true
    }

    #[track_caller]
    unsafe fn irq_restore(&self, were_on: bool) {
        if sys::model_failed() {
            return;
        }
        let thread = self.0.thread();
        if !thread.irqs_off.get() {
            return broken!("irq_restore with interrupts on");
        }
        if were_on {
            thread.irqs_off.set(false);
            self.0.cpus.get(thread.cpu.get()).enable();
        }
    }

    fn kick(&self, cpus: &CpuSet) {
        if sys::model_failed() {
            return;
        }
        self.0.cpus.kicks.fetch_add(1, Relaxed);
        for cpu in self.0.cpus.online_of(cpus) {
            self.0.cpus.get(cpu).interrupt();
        }
    }

    #[track_caller]
    fn kick_and_wait(&self, cpus: &CpuSet) {
        if sys::model_failed() {
            return;
        }
        let machine = &*self.0;
        if machine.thread().irqs_off.get() {
            return broken!(
                "kick_and_wait with interrupts off: two CPUs that do it wait for each other"
            );
        }
        machine.cpus.kicks.fetch_add(1, Relaxed);
        let mut under_way = Vec::new();
        for cpu in machine.cpus.online_of(cpus) {
            let section = machine.cpus.get(cpu).interrupt();
            under_way.extend(section.map(|section| (cpu, section)));
        }
        for (cpu, section) in under_way {
            machine.cpus.get(cpu).wait_for(section);
        }
    }

    fn online(&self) -> CpuSet {
        book(&self.0.cpus.online).clone()
    }

    #[track_caller]
    fn hold_cpus(&self) {
        let machine = &*self.0;
        machine.may_sleep("hold_cpus");
        let thread = machine.thread();
        if thread.holds_cpus.get() {
            broken!("hold_cpus does not nest: a CPU that waits to come would come between");
        }
        machine.cpus.hotplug.read();
        thread.holds_cpus.set(true);
    }

    #[track_caller]
    unsafe fn unhold_cpus(&self) {
        if sys::model_failed() {
            return;
        }
        let thread = self.0.thread();
        if !thread.holds_cpus.replace(false) {
            return broken!("unhold_cpus without hold_cpus");
        }
        self.0.cpus.hotplug.unlock_read();
    }

    #[track_caller]
    fn call_on(&self, cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
        let machine = &*self.0;
        machine.needs_irqs_on("call_on");
        let thread = machine.thread();
        if let Some(held) = thread.spinning() {
            broken!("call_on under the spinning lock `{}`", held.class.name);
        }
        for cpu in machine.cpus.online_of(cpus) {
            let home = OnCpu::new(self, cpu);
            let were_on = self.irq_disable();
            f(cpu);
            // SAFETY: pairs with `irq_disable` above, on the same CPU.
            unsafe { self.irq_restore(were_on) };
            drop(home);
        }
    }

    fn should_yield(&self) -> bool {
        // Pretended contention is for walks. A vCPU that asks just before it enters its guest
        // would never enter.
        !self.0.thread().irqs_off.get() && self.0.cpus.pretends_contention()
    }

    #[track_caller]
    fn yield_now(&self) {
        self.0.may_sleep("yield_now");
        #[cfg(not(loom))]
        std::thread::yield_now();
    }

    fn signal_pending(&self) -> bool {
        self.0.cpus.signal.load(Relaxed)
    }

    fn tsc(&self) -> u64 {
        self.0.cpus.tsc.fetch_add(1_000, Relaxed)
    }

    fn tsc_khz(&self) -> u32 {
        self.0.cpus.tsc_khz.load(Relaxed)
    }

    #[track_caller]
    fn new_wait_queue(&self) -> Result<Queue, AllocError> {
        self.0.may_sleep("new_wait_queue");
        self.0.inject.allocation()?;
        Ok(self.0.queues.make(&self.0))
    }
}

/// The thread is on another CPU until this is dropped.
struct OnCpu<'a, const NOTIFIER: bool> {
    host: &'a Mock<NOTIFIER>,
    home: CpuId,
}

impl<'a, const NOTIFIER: bool> OnCpu<'a, NOTIFIER> {
    #[track_caller]
    fn new(host: &'a Mock<NOTIFIER>, cpu: CpuId) -> Self {
        host.0.cpus.get(cpu);
        let thread = host.0.thread();
        if thread.irqs_off.get() {
            broken!("a thread with interrupts off does not change CPU");
        }
        let home = thread.cpu.replace(cpu);
        Self { host, home }
    }
}

impl<const NOTIFIER: bool> Drop for OnCpu<'_, NOTIFIER> {
    fn drop(&mut self) {
        if sys::model_failed() {
            return;
        }
        self.host.0.thread().cpu.set(self.home);
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Runs `f` with this thread on `cpu`. Calls nest; after each the thread is
    /// back where it was.
    #[track_caller]
    pub fn run_on<R>(&self, cpu: CpuId, f: impl FnOnce() -> R) -> R {
        if self.0.thread().pins.get() > 0 {
            broken!("a pinned thread does not change CPU");
        }
        let _home = OnCpu::new(self, cpu);
        f()
    }

    /// The CPU that this thread runs on.
    pub fn current_cpu(&self) -> CpuId {
        self.0.thread().cpu.get()
    }

    /// Whether an interrupt is pending on this thread's CPU. A simulated guest
    /// asks between its accesses and leaves guest mode when it is so. Orders
    /// no memory: the interrupt is taken, and ordered, when interrupts go on.
    pub fn interrupt_pending(&self) -> bool {
        let cpu = self.0.thread().cpu.get();
        self.0.cpus.get(cpu).is_pending()
    }

    /// Sleeps until an interrupt is pending on this thread's CPU: a guest that
    /// does nothing and leaves only when it is kicked. Models use it instead
    /// of polling; a kick that is lost is a deadlock.
    #[track_caller]
    pub fn wait_for_interrupt(&self) {
        let thread = self.0.thread();
        if !thread.irqs_off.get() {
            broken!("a guest runs with interrupts on");
        }
        self.0.cpus.get(thread.cpu.get()).wait_until_pending();
    }

    /// How many interrupts were sent to `cpu` by kicks.
    #[track_caller]
    pub fn interrupts_sent(&self, cpu: CpuId) -> u64 {
        self.0.cpus.get(cpu).counts().0
    }

    /// How many times `cpu` took interrupts. Those sent while one was pending
    /// are taken together.
    #[track_caller]
    pub fn interrupts_taken(&self, cpu: CpuId) -> u64 {
        self.0.cpus.get(cpu).counts().1
    }

    /// How many calls sent interrupts, to however many CPUs each.
    pub fn kick_calls(&self) -> u64 {
        self.0.cpus.kicks.load(Relaxed)
    }

    /// Brings `cpu` online, or takes it offline, unless somebody holds the
    /// CPUs: then waits. `notice` runs on that CPU while it is online, and says
    /// whether the change stands. Returns that.
    #[track_caller]
    pub fn set_online(&self, cpu: CpuId, online: bool, notice: impl FnOnce(CpuId) -> bool) -> bool {
        let machine = &*self.0;
        machine.may_sleep("set_online");
        machine.cpus.get(cpu);
        machine.cpus.hotplug.write();
        let was = book(&machine.cpus.online).contains(cpu);
        let stands = if was == online {
            true
        } else {
            book(&machine.cpus.online).insert(cpu);
            let stands = self.run_on(cpu, || notice(cpu));
            if stands != online {
                book(&machine.cpus.online).remove(cpu);
            }
            stands
        };
        machine.cpus.hotplug.unlock_write();
        stands
    }

    /// Makes a signal wait for every thread, or no longer.
    pub fn set_signal(&self, pending: bool) {
        self.0.cpus.signal.store(pending, Relaxed);
    }

    /// Lets every thread have been killed, or none.
    pub fn set_dying(&self, dying: bool) {
        self.0.cpus.dying.store(dying, Relaxed);
    }

    /// Sets the time-stamp counter of every CPU. Each look at it counts a thousand ticks.
    pub fn set_tsc(&self, ticks: u64) {
        self.0.cpus.tsc.store(ticks, Relaxed);
    }

    /// Sets how fast the time-stamp counters count, in kHz.
    pub fn set_tsc_khz(&self, khz: u32) {
        self.0.cpus.tsc_khz.store(khz, Relaxed);
    }

    /// Makes every `n`-th question about contention (`is_contended`,
    /// `should_yield`) be answered with yes; 0 for none. With 1 a walk yields
    /// whenever it can.
    pub fn contend_every(&self, n: u64) {
        self.0.cpus.contend_every.store(n, Relaxed);
    }

    /// Makes the next `n` questions about contention be answered with yes.
    pub fn force_contention(&self, n: u64) {
        self.0.cpus.contend_next.store(n, Relaxed);
    }
}
