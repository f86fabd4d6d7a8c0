//! CPUs, interrupts between them, and sleeping.
use core::marker::PhantomData;

use crate::memory::AllocError;

/// The number of a host CPU, from 0.
pub type CpuId = u32;

/// The most host CPUs that one module serves. Registration refuses a host with
/// a CPU number at or above it.
pub const MAX_CPUS: usize = 1024;

const WORDS: usize = MAX_CPUS / 64;

/// A set of host CPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuSet {
    words: [u64; WORDS],
    overflowed: bool,
}

impl CpuSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self {
            words: [0; WORDS],
            overflowed: false,
        }
    }

    /// Adds a CPU. One whose number is out of range does not become a member:
    /// no such CPU is ever enabled. [`overflowed`](CpuSet::overflowed) tells.
    pub fn insert(&mut self, cpu: CpuId) {
        match self.words.get_mut(cpu as usize / 64) {
            Some(word) => *word |= 1 << (cpu % 64),
            None => self.overflowed = true,
        }
    }

    /// Whether somebody tried to add a CPU with a number that is out of range.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether the CPU is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.words
            .get(cpu as usize / 64)
            .is_some_and(|word| word & (1 << (cpu % 64)) != 0)
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.words.get_mut(cpu as usize / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// The members as bits, CPU 0 first: for a host that takes sets that way.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether nobody is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The members, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| (i * 64 + bit) as CpuId)
        })
    }
}

impl Default for CpuSet {
    fn default() -> Self {
        Self::new()
    }
}

/// CPUs.
///
/// # Safety
///
/// The implementor promises that a pinned thread stays on its CPU, that no
/// interrupt handler runs while interrupts are off, and that
/// [`kick_and_wait`](Cpu::kick_and_wait) returns only as it says.
pub unsafe trait Cpu: Sized {
    /// The host's means of sleeping until something happens.
    type WaitQueue: WaitQueue;

    /// Keeps this thread on its CPU and says which it is. Nests. Any context.
    /// Use [`Pinned::new`].
    ///
    /// Linux: `get_cpu`. FreeBSD: `critical_enter`, `PCPU_GET(cpuid)`.
    fn pin(&self) -> CpuId;

    /// Ends one [`pin`](Cpu::pin).
    ///
    /// Linux: `put_cpu`. FreeBSD: `critical_exit`.
    ///
    /// # Safety
    ///
    /// Pairs with one `pin` of this thread.
    unsafe fn unpin(&self);

    /// Turns interrupts off and returns whether they were on. Use
    /// [`IrqOff::new`].
    ///
    /// Linux: `local_irq_save`. FreeBSD: `intr_disable`.
    fn irq_disable(&self) -> bool;

    /// Turns interrupts on again if `were_on`.
    ///
    /// Linux: `local_irq_restore`. FreeBSD: `intr_restore`.
    ///
    /// # Safety
    ///
    /// `were_on` is what the matching [`irq_disable`](Cpu::irq_disable)
    /// returned, on this CPU.
    unsafe fn irq_restore(&self, were_on: bool);

    /// Interrupts every CPU of the set, with one multi-target interrupt where
    /// the hardware has it. A CPU in guest mode leaves it; elsewhere nothing
    /// happens. CPUs that are not online are skipped. Does not wait. Any
    /// context.
    ///
    /// Linux: `smp_send_reschedule`, `smp_call_function_many(wait = 0)`.
    /// FreeBSD: `ipi_selected` with the kick vector.
    fn kick(&self, cpus: &CpuSet);

    /// As [`kick`](Cpu::kick), and returns only when each of those CPUs has
    /// taken the interrupt, which it does with interrupts on: so whatever it
    /// did with interrupts off before is over, and visible to the caller.
    /// Interrupts on, may spin, does not sleep; spin locks may be held unless
    /// a holder of them waits with interrupts off.
    ///
    /// Linux: `smp_call_function_many(wait = 1)`. FreeBSD:
    /// `smp_rendezvous_cpus`.
    fn kick_and_wait(&self, cpus: &CpuSet);

    /// The CPUs that are online. Stable while [`hold_cpus`](Cpu::hold_cpus) is
    /// in force.
    ///
    /// Linux: `cpu_online_mask`. FreeBSD: `all_cpus`.
    fn online(&self) -> CpuSet;

    /// Keeps CPUs from coming and going. May sleep. Use [`CpusHeld::new`].
    ///
    /// Linux: `cpus_read_lock`. FreeBSD: nothing, CPUs stay.
    fn hold_cpus(&self);

    /// Ends one [`hold_cpus`](Cpu::hold_cpus).
    ///
    /// Linux: `cpus_read_unlock`.
    ///
    /// # Safety
    ///
    /// Pairs with one `hold_cpus` of this thread.
    unsafe fn unhold_cpus(&self);

    /// Runs `f` on each online CPU of the set, with interrupts off, and waits
    /// for all of them. `f` gets the CPU's number. Interrupts on, no spin lock
    /// held.
    ///
    /// Linux: `on_each_cpu_mask`. FreeBSD: `smp_rendezvous_cpus`.
    fn call_on(&self, cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync));

    /// Whether another thread wants this CPU. Any context.
    ///
    /// Linux: `need_resched`. FreeBSD: `td_owepreempt`, `td_ast`.
    fn should_yield(&self) -> bool;

    /// Lets another thread run if one wants to. May sleep; no spin lock, no
    /// RCU section.
    ///
    /// Linux: `cond_resched`. FreeBSD: `maybe_yield`.
    fn yield_now(&self);

    /// Whether a signal waits for this thread, so that it should go back to
    /// user space. Any context.
    ///
    /// Linux: `signal_pending(current)`. FreeBSD: `SIGPENDING(curthread)`.
    fn signal_pending(&self) -> bool;

    /// Whether this thread has something else to do than to run a guest: a
    /// signal waits, or another thread wants the CPU. Any context.
    ///
    /// Linux: `read_thread_flags`.
    fn held_up(&self) -> bool {
        self.signal_pending() || self.should_yield()
    }

    /// Whether return predictions that a guest has left must be overwritten
    /// before the host returns from a function, on a CPU that does not see to
    /// it by itself. Any context.
    ///
    /// Linux: `X86_FEATURE_RSB_VMEXIT`. FreeBSD: always.
    fn distrusts_predictions(&self) -> bool {
        true
    }

    /// This CPU's time-stamp counter, in its own ticks. Any context.
    ///
    /// Linux: `rdtsc`. FreeBSD: `rdtsc`.
    fn tsc(&self) -> u64;

    /// How fast the time-stamp counters count, in kHz; 0 if the host does not
    /// know. The same whenever it is asked. Any context.
    ///
    /// Linux: `tsc_khz`. FreeBSD: `tsc_freq`.
    fn tsc_khz(&self) -> u32;

    /// Has the host set and clear bits of this CPU's CR4. A host that keeps a
    /// copy of the register must: it would undo what is written behind its
    /// back. False where the host keeps none; then nothing was done. Interrupts
    /// off.
    ///
    /// Linux: `cr4_update_irqsoff`. FreeBSD: false.
    ///
    /// # Safety
    ///
    /// The CPU lets these bits be set and cleared now, and the host expects it.
    unsafe fn change_cr4(&self, set: u64, clear: u64) -> bool {
        let _ = (set, clear);
        false
    }

    /// The limit of this CPU's task register has become 103, which cuts an I/O
    /// bitmap off. A host whose threads may have one sees to it that the
    /// register is loaded again before such a thread is in user space.
    /// Interrupts off.
    ///
    /// Linux: `invalidate_tss_limit`. FreeBSD: `ltr`.
    fn task_register_was_cut(&self) {}

    /// Makes a wait queue. May sleep.
    ///
    /// Linux: `init_swait_queue_head`. FreeBSD: `mtx_init`, `cv_init`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn new_wait_queue(&self) -> Result<Self::WaitQueue, AllocError>;
}

/// Where threads sleep until a condition holds.
pub trait WaitQueue: Send + Sync {
    /// Sleeps until `ready` returns true, which is asked at least once, before
    /// every sleep, and after every [`wake`](WaitQueue::wake). It is asked
    /// with the thread already announced as a sleeper and a full barrier in
    /// between, so a waker that makes `ready` true and then calls `wake` is
    /// never missed. `ready` must not sleep. Process context, no spin lock.
    ///
    /// With `interruptible`, a signal ends the wait early; the result says
    /// whether `ready` returned true.
    ///
    /// Linux: `swait_event_interruptible_exclusive` and its plain form.
    /// FreeBSD: `cv_wait_sig`, `cv_wait`.
    fn wait(&self, interruptible: bool, ready: impl FnMut() -> bool) -> bool;

    /// Wakes every thread that waits. Orders everything before it, with a full
    /// barrier, ahead of looking for sleepers. Any context but with interrupts
    /// off. Returns whether somebody slept.
    ///
    /// Linux: `swake_up_all`. FreeBSD: `cv_broadcast` under its mutex.
    fn wake(&self) -> bool;
}

/// Evidence that this thread stays on its CPU.
pub struct Pinned<'a, C: Cpu> {
    host: &'a C,
    cpu: CpuId,
    not_send: PhantomData<*mut ()>,
}

impl<'a, C: Cpu> Pinned<'a, C> {
    /// Pins this thread until the guard is dropped.
    pub fn new(host: &'a C) -> Self {
        let cpu = host.pin();
        Self {
            host,
            cpu,
            not_send: PhantomData,
        }
    }

    /// The CPU that the thread is pinned to.
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl<C: Cpu> Drop for Pinned<'_, C> {
    fn drop(&mut self) {
        // SAFETY: `new` pinned this thread and only this drop unpins it.
        unsafe { self.host.unpin() }
    }
}

/// Evidence that interrupts are off on this CPU.
pub struct IrqOff<'a, C: Cpu> {
    host: &'a C,
    were_on: bool,
    not_send: PhantomData<*mut ()>,
}

impl<'a, C: Cpu> IrqOff<'a, C> {
    /// Turns interrupts off until the guard is dropped.
    pub fn new(host: &'a C) -> Self {
        let were_on = host.irq_disable();
        Self {
            host,
            were_on,
            not_send: PhantomData,
        }
    }
}

impl<C: Cpu> Drop for IrqOff<'_, C> {
    fn drop(&mut self) {
        // SAFETY: `new` turned interrupts off on this CPU; with interrupts off
        // the thread cannot have moved.
        unsafe { self.host.irq_restore(self.were_on) }
    }
}

/// Evidence that no CPU comes or goes.
pub struct CpusHeld<'a, C: Cpu> {
    host: &'a C,
    not_send: PhantomData<*mut ()>,
}

impl<'a, C: Cpu> CpusHeld<'a, C> {
    /// Keeps CPUs from coming and going until the guard is dropped. May sleep.
    pub fn new(host: &'a C) -> Self {
        host.hold_cpus();
        Self {
            host,
            not_send: PhantomData,
        }
    }
}

impl<C: Cpu> Drop for CpusHeld<'_, C> {
    fn drop(&mut self) {
        // SAFETY: `new` took the hold on this thread and only this drop ends
        // it.
        unsafe { self.host.unhold_cpus() }
    }
}
