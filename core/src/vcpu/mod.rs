//! A vCPU as others see it: its requests, where it is, and how to reach it.
//!
//! What the vendor and the interface keep per vCPU is not here. A vCPU has one
//! thread at a time that runs it (the interface's vCPU lock sees to that); it
//! alone loads, enters, blocks and checks requests. Everybody else makes
//! requests.
pub mod mode;
pub mod run;
pub mod set;

pub use mode::Mode;
pub use run::{Owner, Runner};
pub use set::{MAX_VCPUS, Vcpus};

use waterbear_hal::sync::atomic::{AtomicU32, Ordering};
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{CpuId, CpuSet, Hal, IrqOff, Pinned, WaitQueue};

use crate::Error;
use crate::request::{Request, Requests};
use mode::{ModeCell, sender_barrier};

/// The vCPU is loaded on no CPU.
const NO_CPU: CpuId = CpuId::MAX;

/// A vCPU.
///
/// Who writes: `[I]` nobody after creation, `[a]` anyone, `[t]` the vCPU's
/// thread.
pub struct Vcpu<H: Hal> {
    /// `[I]`
    hal: H,
    /// `[I]`
    index: u32,
    /// `[a]`
    requests: Requests,
    /// `[t]`, but for the one transition that senders make.
    mode: ModeCell,
    /// `[t]` The CPU that it is loaded on, or [`NO_CPU`].
    cpu: AtomicU32,
    /// `[t]` The CPU that it was last loaded on; only its thread reads it.
    last_cpu: AtomicU32,
    /// `[I]` Where its thread sleeps while the vCPU is halted.
    queue: H::WaitQueue,
    /// `[a]` How often its CPU was interrupted; a statistic.
    kicks: core::sync::atomic::AtomicU64,
}

impl<H: Hal> Vcpu<H> {
    /// Makes a vCPU. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, index: u32) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            index,
            requests: Requests::new(),
            mode: ModeCell::new(),
            cpu: AtomicU32::new(NO_CPU),
            last_cpu: AtomicU32::new(NO_CPU),
            queue: hal.new_wait_queue()?,
            kicks: core::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Its place among the vCPUs of the VM.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its requests.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Where it is. A look, which may be old when it returns.
    pub fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Makes a request and tells the vCPU about it as the request's flags say:
    /// wakes it, or interrupts it in the guest, or does nothing because it
    /// will look by itself (KR-2).
    ///
    /// With `WAIT` it returns when the vCPU has left guest mode; spins,
    /// interrupts on. Without, any context, except that a request which wakes
    /// sleepers must not come with interrupts off.
    pub fn make_request(&self, request: Request) {
        self.requests.make(request);
        sender_barrier();
        if request.wakes() && self.wake() {
            return;
        }
        let pinned = Pinned::new(&self.hal);
        if let Some(cpu) = self.cpu_to_interrupt(&pinned, request) {
            self.count_kick();
            let mut cpus = CpuSet::new();
            cpus.insert(cpu);
            interrupt(&self.hal, &cpus, request);
        }
    }

    /// How often its CPU was interrupted because of it.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    fn count_kick(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes the vCPU's thread if it is blocked; says whether it was. It stays
    /// blocked unless it finds a reason not to (KR-8). Any context but with
    /// interrupts off.
    pub fn wake(&self) -> bool {
        !removed(Part::WakeSleeper) && self.queue.wake()
    }

    /// The CPU that a sender must interrupt, if any. The sender has put the
    /// barrier, and stays on its CPU: else "this CPU" might be the vCPU's by
    /// the time that it is skipped.
    ///
    /// The CPU is read once, after the decision (KR-3). A vCPU that was in the
    /// guest and now has no CPU, or is on this one, or moved, has left guest
    /// mode since: then the interrupt is not needed, and harms nobody.
    fn cpu_to_interrupt(&self, sender: &Pinned<'_, H>, request: Request) -> Option<CpuId> {
        if !self.mode.must_interrupt(request.waits()) {
            return None;
        }
        // At least as new as the mode, which `must_interrupt` has acquired.
        // Acquire: if the vCPU has left that CPU, we see what it did there.
        // Pairs with `load` and with the drop of `Loaded`.
        let cpu = self.cpu.load(Ordering::Acquire);
        if cpu == NO_CPU || cpu == sender.cpu() {
            return None;
        }
        if removed(Part::CpuReadOnce) {
            return Some(self.cpu.load(Ordering::Relaxed));
        }
        Some(cpu)
    }

    /// Binds the vCPU to the CPU of `pinned` until the result is dropped. Only
    /// a loaded vCPU can be reached by an interrupt, so only a loaded one
    /// enters the guest or walks page tables without a lock.
    ///
    /// A vCPU that comes to another CPU than last time flushes its TLB before
    /// it enters: a flush that it did elsewhere left this CPU's TLB alone.
    pub fn load<'a>(&'a self, pinned: &'a Pinned<'_, H>) -> Loaded<'a, H> {
        let cpu = pinned.cpu();
        if self.cpu.load(Ordering::Relaxed) != NO_CPU {
            self.hal.bug("a vCPU was loaded twice");
        }
        if self.last_cpu.load(Ordering::Relaxed) != cpu {
            self.last_cpu.store(cpu, Ordering::Relaxed);
            self.requests.make(Request::TLB_FLUSH);
        }
        // Release: pairs with `cpu_to_interrupt`.
        self.cpu.store(cpu, Ordering::Release);
        Loaded {
            vcpu: self,
            _pinned: pinned,
        }
    }

    /// Whether a vCPU that is in guest mode is wanted outside.
    pub(crate) fn is_wanted(&self) -> bool {
        // A sender that only wants the vCPU outside sets no bit; its mark on
        // the mode is enough to turn back.
        self.requests.any() || self.mode() == Mode::ExitingGuest
    }

    /// Takes the pending requests up, each through `handle`, which may sleep.
    /// The vCPU's thread calls it before it enters the guest.
    ///
    /// # Errors
    ///
    /// [`Error::Dead`] when the VM is dead, and then nothing else is done. Any
    /// error of `handle`; that request is pending again.
    pub fn check_requests(
        &self,
        mut handle: impl FnMut(Request) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.requests.any() {
            return Ok(());
        }
        if self.requests.check(Request::VM_DEAD) {
            return Err(Error::Dead);
        }
        for request in Request::ALL {
            if self.requests.check(request)
                && let Err(error) = handle(request)
            {
                self.requests.make(request);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sleeps until `runnable`, [`Request::UNBLOCK`] or the VM's death. A wake
    /// that comes with none of them is slept through (KR-8). `runnable` does
    /// not sleep; whoever makes it true then calls [`wake`](Vcpu::wake) or
    /// makes a request. Process context, no spin lock, not loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Dead`] when the VM is dead, [`Error::Interrupted`] when a
    /// signal came first.
    pub fn block(&self, mut runnable: impl FnMut() -> bool) -> Result<(), Error> {
        let ready = self.queue.wait(true, || {
            self.requests.test(Request::VM_DEAD)
                || self.requests.check(Request::UNBLOCK)
                || runnable()
        });
        if self.requests.check(Request::VM_DEAD) {
            Err(Error::Dead)
        } else if ready {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    }
}

/// Sends the interrupts that a request calls for, all at once.
fn interrupt<H: Hal>(hal: &H, cpus: &CpuSet, request: Request) {
    if request.waits() {
        hal.kick_and_wait(cpus);
    } else {
        hal.kick(cpus);
    }
}

/// Evidence that a vCPU is loaded on the CPU of this thread.
pub struct Loaded<'a, H: Hal> {
    vcpu: &'a Vcpu<H>,
    _pinned: &'a Pinned<'a, H>,
}

impl<H: Hal> Loaded<'_, H> {
    /// Enters the guest, unless a request is pending (KR-1).
    ///
    /// `guest` runs with interrupts off and returns when the hardware has left
    /// the guest. What else must keep a vCPU from entering (a signal, another
    /// thread that wants the CPU) it looks at itself: earlier is too early,
    /// because interrupts were on. `None` when the guest was not entered: take
    /// the requests up and try again.
    pub fn enter<R>(&self, guest: impl FnOnce(&IrqOff<'_, H>) -> R) -> Option<R> {
        let irq_off = IrqOff::new(&self.vcpu.hal);
        let in_guest = self.vcpu.mode.begin(Mode::InGuest);
        let result = if self.vcpu.is_wanted() {
            None
        } else {
            Some(guest(&irq_off))
        };
        drop(in_guest);
        result
    }

    /// Runs `walk`, a walk of page tables without a lock. A table that is
    /// unlinked while the walk may see it is freed only after the walk, if its
    /// remover makes a request with `WAIT` before it frees (KR-4). Interrupts
    /// are off in `walk`.
    pub fn reading_page_tables<R>(&self, walk: impl FnOnce(&IrqOff<'_, H>) -> R) -> R {
        let irq_off = IrqOff::new(&self.vcpu.hal);
        let reading = self.vcpu.mode.begin(Mode::ReadingPageTables);
        let result = walk(&irq_off);
        drop(reading);
        result
    }
}

impl<H: Hal> Drop for Loaded<'_, H> {
    fn drop(&mut self) {
        // Release: a sender that sees it sees what the guest did. Pairs with
        // `cpu_to_interrupt`. A sender that still sees the old CPU interrupts
        // it for nothing.
        self.vcpu.cpu.store(NO_CPU, Ordering::Release);
    }
}
