//! The run loop: what owns a vCPU's guest state, and what is done about each exit.
//!
//! A [`GuestCpu`] belongs to the thread that runs the vCPU. Its owner (an interface for virtual
//! machine monitors, or a test) calls [`GuestCpu::run`], which comes back when somebody outside
//! the kernel has to act:
//!
//! ```text
//!   run ─▶ complete what the owner did for the last leave
//!        ▶ asked to come back at once? ───────────────────────▶ Interrupted
//!        ▶ guest FPU into the CPU
//!   ┌──▶ choose an event to deliver, ask for windows
//!   │    take requests up, enter the guest (not while a signal waits)
//!   │    take back the event that was not delivered
//!   │    handle the exit
//!   └──◀ done in the kernel            else ─▶ host FPU ───────▶ a Leave
//! ```
//!
//! # For owners
//!
//! - Create with [`GuestCpu::new`], give it a CPUID table ([`set_cpuid`](GuestCpu::set_cpuid); the
//!   table decides which bits of control registers and which MSRs the guest has), set registers,
//!   and run.
//! - On [`Leave::Io`] and [`Leave::Mmio`] look at [`data`](GuestCpu::data): the guest's bytes, or
//!   room for yours. The next run uses them and finishes the instruction. Until then the registers
//!   are those from before the instruction; who moves RIP then calls
//!   [`abandon`](GuestCpu::abandon).
//! - [`queue_interrupt`](GuestCpu::queue_interrupt) and [`queue_nmi`](GuestCpu::queue_nmi) deliver
//!   events; [`ready_for_interrupt`](GuestCpu::ready_for_interrupt) tells whether one would be
//!   taken at once, and [`want_interrupt_window`](GuestCpu::want_interrupt_window) makes `run` come
//!   back when it is so.
//! - General registers, segments and tables are the vendor's: `vendor.regs(cpu.state())`. Values
//!   that come from user space and that a host's CPU must not see unchecked have setters here:
//!   [`set_controls`](GuestCpu::set_controls), [`set_msr`](GuestCpu::set_msr),
//!   [`set_debug`](GuestCpu::set_debug), [`set_xcr0`](GuestCpu::set_xcr0).
//!
//! | file | idea |
//! |---|---|
//! | [`leave`] | why a vCPU came back to its owner |
//! | `exit` | what is done about each exit |
//! | `quick` | the same for those that need nothing but registers |
//! | [`cpuid`] | CPUID, and what it says about the rest of the CPU |
//! | [`msr`], `mtrr`, [`machine_check`] | model-specific registers |
//! | [`control`], [`debug`] | control and debug registers, XCR0 |
//! | `moves` | their operands |
//! | [`clock`] | the clock that the guest reads from its memory |
//! | [`event`], `inject` | events, and when they are delivered |
//! | `io` | ports |
//! | `strings` | REP INS and REP OUTS |
//! | `fetch`, `glance` | the bytes of the instruction that left the guest |
//! | `memory` | how linear addresses are translated |
//! | `emulation`, `plain` | instructions that are executed here |
pub mod clock;
pub mod control;
pub mod cpuid;
pub mod debug;
mod emulation;
pub mod event;
mod exit;
mod fetch;
mod glance;
mod inject;
mod io;
pub mod leave;
pub mod machine_check;
mod memory;
mod moves;
pub mod msr;
mod mtrr;
mod plain;
mod quick;
mod strings;

use waterbear_hal::Hal;

use crate::Error;
use crate::emulate::Devices;
use crate::mem::{Box, Heap, Shared, array};
use crate::stats::VcpuStats;
use crate::vcpu::{Runner, Vcpu};
use crate::vendor::Vendor;
use crate::vm::{VcpuMmu, Vm};
use cpuid::{Asked, CpuidEntry, Features, HostCpuid, Table};
use emulation::Emulated;
use event::Events;
use exit::Step;
use fetch::Code;
use glance::Walked;
pub use leave::Leave;
use plain::Move;
use quick::Inside;
use strings::Together;

/// Bytes that an owner and a guest can exchange at a time.
pub const DATA: usize = 4096;

/// What a vCPU's thread keeps of its guest's CPU.
///
/// Everything here is the thread's own: nothing is shared and nothing is locked.
pub struct GuestCpu<H: Hal, V: Vendor> {
    hal: H,
    runner: Runner<V>,
    mmu: VcpuMmu<H>,
    fpu: H::GuestFpu,
    cpuid: Table<H>,
    /// What this machine can give a guest.
    host: Features,
    /// What this guest has: what its CPUID says and the machine can give.
    features: Features,
    kept: msr::Kept,
    mtrrs: mtrr::Mtrrs,
    banks: machine_check::Banks<H>,
    cr8: u64,
    clock: clock::VcpuClock,
    stats: Shared<VcpuStats, H>,
    events: Events,
    /// The vendor was asked for a window.
    asked: bool,
    at_once: bool,
    pending: Pending,
    devices: Devices,
    /// The bytes that were fetched last.
    code: Code,
    /// The instruction that was executed here last; a device may have to answer it.
    emulated: Emulated,
    /// What the owner does together.
    together: Option<Together>,
    data: Box<[u8], H>,
    /// How many bytes of the data count.
    len: usize,
    /// The last way to the guest's code.
    walked: Walked,
}

/// What the next run has to finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    Nothing,
    /// OUT: go on behind the instruction.
    Out {
        length: u8,
    },
    /// IN: the same, and the data go to RAX.
    In {
        size: u8,
        length: u8,
    },
    /// A device answers a plain move.
    Load(Move),
    /// A device answers an emulated instruction.
    Read,
    /// An emulated instruction may have more to tell devices.
    Write,
    /// Several iterations of REP INS or REP OUTS.
    Together,
}

/// The counts of a new vCPU. Not inlined: they need room on the stack until they are in theirs.
#[inline(never)]
fn fresh_stats<H: Hal>(hal: &H) -> Result<Shared<VcpuStats, H>, Error> {
    Shared::new(hal, VcpuStats::new())
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// A CPU in the vendor's first state, without CPUID. `host` is what guests can have of the
    /// machine's. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`], and those of [`Vendor::new_vcpu`].
    // In a box from the beginning: it is large, and a kernel's stack is small.
    #[inline(never)]
    pub fn new(hal: &H, vendor: &V, host: &HostCpuid<'_>) -> Result<Box<Self, H>, Error> {
        let runner = Runner::new(vendor.new_vcpu()?);
        let fpu = hal.new_guest_fpu()?;
        let stats = fresh_stats(hal)?;
        let data = array(hal, DATA, |_| 0)?;
        let place = Box::try_new_uninit_in(Heap(hal.clone()))?;
        let host = Features::of_host(host);
        Ok(Box::write(
            place,
            Self::fresh(hal, runner, fpu, stats, data, host),
        ))
    }

    /// One that was never run. Not inlined: what it is made of needs room on the stack beside it,
    /// and the caller has that of the whole already.
    #[inline(never)]
    fn fresh(
        hal: &H,
        runner: Runner<V>,
        fpu: H::GuestFpu,
        stats: Shared<VcpuStats, H>,
        data: Box<[u8], H>,
        host: Features,
    ) -> Self {
        Self {
            runner,
            mmu: VcpuMmu::new(),
            fpu,
            cpuid: Table::new(hal),
            host,
            features: Features::none(),
            kept: msr::Kept::RESET,
            mtrrs: mtrr::Mtrrs::new(),
            banks: machine_check::Banks::new(hal),
            cr8: 0,
            clock: clock::VcpuClock::default(),
            stats,
            events: Events::default(),
            asked: false,
            at_once: false,
            pending: Pending::Nothing,
            devices: Devices::new(),
            code: Code::default(),
            emulated: Emulated::default(),
            together: None,
            data,
            len: 0,
            walked: Walked::NOTHING,
            hal: hal.clone(),
        }
    }

    /// Sets the CPUID table. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for too many entries, [`Error::NoMemory`]; the old table stays.
    pub fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), Error> {
        let mut rest = entries.iter();
        self.read_cpuid(entries.len(), &mut || {
            rest.next().copied().ok_or(Error::Invalid)
        })
    }

    /// The same with `count` entries that `next` tells. May sleep.
    ///
    /// # Errors
    ///
    /// As [`set_cpuid`](GuestCpu::set_cpuid), and those of `next`.
    pub fn read_cpuid(
        &mut self,
        count: usize,
        next: &mut dyn FnMut() -> Result<CpuidEntry, Error>,
    ) -> Result<(), Error> {
        self.cpuid.replace(&self.hal, count, next)?;
        self.features = self.cpuid.features().and(&self.host);
        Ok(())
    }

    /// The CPUID table.
    pub fn cpuid(&self) -> &Table<H> {
        &self.cpuid
    }

    /// What the guest has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Gives the guest machine-check banks, as many as IA32_MCG_CAP's value says. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a value that is not offered, [`Error::NoMemory`].
    pub fn set_up_machine_checks(&mut self, cap: u64) -> Result<(), Error> {
        self.banks.set_up(&self.hal, cap)
    }

    /// What is counted.
    pub fn stats(&self) -> &Shared<VcpuStats, H> {
        &self.stats
    }

    /// IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        self.kept.apic_base()
    }

    /// The vendor's state of the vCPU.
    pub fn state(&mut self) -> &mut V::Vcpu {
        self.runner.state()
    }

    /// Copies the guest's FPU state out, as [`Fpu::read_guest_fpu`](waterbear_hal::Fpu).
    pub fn read_fpu(&self, into: &mut [u8]) -> bool {
        self.hal.read_guest_fpu(&self.fpu, into)
    }

    /// Replaces the guest's FPU state, as [`Fpu::write_guest_fpu`](waterbear_hal::Fpu).
    pub fn write_fpu(&mut self, from: &[u8]) -> bool {
        self.hal.write_guest_fpu(&mut self.fpu, from)
    }

    /// What the vCPU keeps for its faults.
    pub fn mmu(&mut self) -> &mut VcpuMmu<H> {
        &mut self.mmu
    }

    /// The data of the last [`Leave::Io`] or [`Leave::Mmio`]: what the guest wrote, or room for
    /// what it reads. After [`Leave::EmulationFailed`] the bytes of the instruction.
    pub fn data(&mut self) -> &mut [u8] {
        self.data.get_mut(..self.len).unwrap_or_default()
    }

    /// The first eight bytes of the data, as many as count.
    pub fn word(&self) -> u64 {
        let unused = 64 - 8 * self.len.min(8) as u32;
        self.answer() & u64::MAX.checked_shr(unused).unwrap_or(0)
    }

    /// The data in words of eight bytes. The last one may have more than count.
    pub fn words(&mut self) -> &mut [[u8; 8]] {
        let (words, _) = self.data.as_chunks_mut();
        words.get_mut(..self.len.div_ceil(8)).unwrap_or_default()
    }

    /// Forgets what the next run would have finished: the owner has sent the guest elsewhere.
    pub fn abandon(&mut self) {
        self.pending = Pending::Nothing;
        self.together = None;
    }

    /// Makes the next run come back at once, or no longer, after it has finished what is pending.
    pub fn come_back_at_once(&mut self, at_once: bool) {
        self.at_once = at_once;
    }

    /// Runs the guest until its owner has to act. May sleep; no lock held, not loaded, interrupts
    /// on.
    ///
    /// # Errors
    ///
    /// [`Error::Dead`] when the VM is dead; [`Error::NoMemory`]; [`Error::Fault`] and
    /// [`Error::Poisoned`] when the owner has no memory where the guest needs it. The guest stands
    /// before the instruction that needed it, and can be run again.
    pub fn run(&mut self, vm: &Vm<H>, vcpu: &Vcpu<H>, vendor: &V) -> Result<Leave, Error> {
        match self.begin(vm, vendor)? {
            Some(leave) => Ok(leave),
            None => self.go_on(vm, vcpu, vendor),
        }
    }

    /// The part of [`run`](GuestCpu::run) before the guest: finishes what is pending, and says
    /// whether that, or the owner's wish, is all there is to do.
    ///
    /// # Errors
    ///
    /// As [`run`](GuestCpu::run).
    #[inline]
    pub fn begin(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Option<Leave>, Error> {
        if self.pending != Pending::Nothing
            && let Some(leave) = self.complete(vm, vendor)?
        {
            return Ok(Some(leave));
        }
        Ok(self.at_once.then_some(Leave::Interrupted))
    }

    /// The rest of it.
    ///
    /// # Errors
    ///
    /// As [`run`](GuestCpu::run).
    pub fn go_on(&mut self, vm: &Vm<H>, vcpu: &Vcpu<H>, vendor: &V) -> Result<Leave, Error> {
        self.hal.load_guest_fpu(&mut self.fpu);
        let result = self.run_guest(vm, vcpu, vendor);
        self.hal.unload_guest_fpu(&mut self.fpu);
        match result {
            Err(Error::Interrupted) => Ok(Leave::Interrupted),
            other => other,
        }
    }

    /// Whether no event waits, and no window was asked for.
    fn is_quick(&self) -> bool {
        self.events.idle() && !self.asked
    }

    fn run_guest(&mut self, vm: &Vm<H>, vcpu: &Vcpu<H>, vendor: &V) -> Result<Leave, Error> {
        loop {
            // The compiler would work out before the first turn where everything is, for turns
            // that seldom come.
            let this = core::hint::black_box(&mut *self);
            if let Step::Leave(leave) = this.run_once(vm, vcpu, vendor)? {
                return Ok(leave);
            }
        }
    }

    /// Enters the guest, if nothing is in the way, and handles the exit.
    #[inline(always)]
    fn run_once(&mut self, vm: &Vm<H>, vcpu: &Vcpu<H>, vendor: &V) -> Result<Step, Error> {
        let mut quick = self.is_quick();
        if !quick {
            quick = match self.prepare_events(vendor) {
                None => self.is_quick(),
                Some(leave) => return Ok(Step::Leave(leave)),
            };
        }
        self.clock.keep(vm, self.kept.tsc_offset);
        let mut inside = Inside {
            vm,
            vendor,
            mmu: &mut self.mmu,
            clock: &mut self.clock,
            stats: &self.stats,
            tsc_offset: self.kept.tsc_offset,
            asked: Asked {
                table: &self.cpuid,
                features: &self.features,
                apic_base: self.kept.apic_base(),
            },
            // What waits is looked at before each entry.
            walked: &mut self.walked,
            quick,
        };
        let exit = self.runner.attempt(&self.hal, vcpu, vendor, &mut inside);
        // Also when the guest was not entered: nothing stays with the vendor.
        if let Some(event) = vendor.take_undelivered(self.runner.state()) {
            self.take_back(vendor, event);
        }
        if let Some(exit) = exit? {
            return self.handle(vm, vendor, exit);
        }
        if self.hal.signal_pending() {
            return Ok(Step::Leave(Leave::Interrupted));
        }
        if self.hal.should_yield() {
            self.hal.yield_now();
        }
        Ok(Step::Resume)
    }
}
