//! Hardware virtualisation, on while somebody uses it.
//!
//! The first user switches it on, on every online CPU, and the last switches
//! it off (VR-4). Users are counted under the usage lock, and no CPU comes or
//! goes meanwhile: the first user either finds a new CPU online and enables
//! it, or the CPU comes later, finds a user, and enables itself.
//!
//! ```text
//!  user                                new CPU
//!  ----                                -------
//!  hold the set of online CPUs         host keeps holders out
//!  usage lock                          usage lock
//!  first? enable every online CPU      a user? enable this CPU
//!  count                               no: nothing to do
//!  unlock, let CPUs come and go        unlock, go online
//! ```
//!
//! Each CPU has a mark that says that it is on, or is being switched. The mark
//! is set before the hardware is touched and cleared after: so an emergency,
//! which can come between any two instructions, never overlooks a CPU.
use core::array;

use waterbear_hal::cpu::{CpusHeld, MAX_CPUS};
use waterbear_hal::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{CpuId, Hal, IrqOff, Word};

use crate::Error;
use crate::lock::Mutex;
use crate::lock_order::USAGE;
use crate::vendor::{EnableError, Hardware, Trouble, Unsupported};

/// Switches hardware virtualisation on and off.
pub(crate) struct Switch<H: Hal> {
    hal: H,
    lock: Mutex<H, ()>,
    /// Written under `lock`.
    users: AtomicUsize,
    /// Which CPUs are on. Each CPU's bit is written by that CPU.
    on: Marks,
    /// The machine goes down; nothing is switched on any more.
    emergency: AtomicBool,
}

impl<H: Hal> Switch<H> {
    pub(crate) fn new(hal: &H) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            lock: Mutex::new(hal, &USAGE, ())?,
            users: AtomicUsize::new(0),
            on: Marks(array::from_fn(|_| AtomicU64::new(0))),
            emergency: AtomicBool::new(false),
        })
    }

    /// Counts a user; the first switches every online CPU on. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] and [`Error::NotSupported`] when a CPU cannot be
    /// enabled; then all are off.
    pub(crate) fn acquire(&self, vendor: &dyn Hardware) -> Result<(), Error> {
        let _held = (!removed(Part::HotplugHold)).then(|| CpusHeld::new(&self.hal));
        let _lock = (!removed(Part::UsageLock)).then(|| self.lock.lock());
        let users = self.users.load(Ordering::Relaxed);
        if users == 0 {
            let result = for_all(&self.hal, vendor, &|cpu| self.enable_here(vendor, cpu));
            if let Err(error) = result {
                self.disable_all(vendor);
                return Err(error);
            }
        }
        self.users.store(users + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Counts a user less; the last switches every CPU off. May sleep.
    pub(crate) fn release(&self, vendor: &dyn Hardware) {
        let _held = (!removed(Part::HotplugHold)).then(|| CpusHeld::new(&self.hal));
        let _lock = (!removed(Part::UsageLock)).then(|| self.lock.lock());
        let users = self.users.load(Ordering::Relaxed);
        if users == 0 {
            self.hal
                .bug("hardware virtualisation was released too often");
            return;
        }
        self.users.store(users - 1, Ordering::Relaxed);
        if users == 1 {
            self.disable_all(vendor);
        }
    }

    /// A CPU comes online: enables it if there are users. Runs on that CPU, in
    /// process context, before anyone who holds the set of CPUs can see it.
    pub(crate) fn cpu_online(&self, vendor: &dyn Hardware, cpu: CpuId) -> Result<(), Error> {
        let _lock = (!removed(Part::UsageLock)).then(|| self.lock.lock());
        if self.users.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let irq_off = IrqOff::new(&self.hal);
        let result = self.enable_here(vendor, cpu);
        drop(irq_off);
        result.map_err(|trouble| report(&self.hal, vendor, cpu, trouble))
    }

    /// A CPU goes: switches it off. Runs on that CPU, any context. The caller
    /// knows that nobody switches it on meanwhile.
    pub(crate) fn cpu_offline(&self, vendor: &dyn Hardware, cpu: CpuId) {
        let _irq_off = IrqOff::new(&self.hal);
        self.disable_here(vendor, cpu);
    }

    /// The only CPU that is left wakes from suspend. Runs on it; interrupts
    /// may be off; takes no lock, because nobody else runs.
    pub(crate) fn resume(&self, vendor: &dyn Hardware, cpu: CpuId) -> Result<(), Error> {
        if self.users.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let _irq_off = IrqOff::new(&self.hal);
        self.enable_here(vendor, cpu)
            .map_err(|trouble| report(&self.hal, vendor, cpu, trouble))
    }

    /// Keeps hardware virtualisation off from now on. Any context.
    pub(crate) fn emergency(&self) {
        self.emergency.store(true, Ordering::Relaxed);
    }

    /// Switches this CPU off in an emergency. Any context, takes no lock.
    pub(crate) fn emergency_off(&self, vendor: &dyn Hardware, cpu: CpuId) {
        self.disable_here(vendor, cpu);
    }

    /// Enables this CPU, which has interrupts off. One that is on stays on.
    fn enable_here(&self, vendor: &dyn Hardware, cpu: CpuId) -> Result<(), Trouble> {
        if self.on.contains(cpu) {
            return Ok(());
        }
        check_here(vendor, cpu)?;
        self.on.set(cpu);
        let mut result = vendor.enable_cpu(cpu);
        // An emergency on this CPU comes before the look below, and is seen;
        // or after it, and sees the mark. Both are on one CPU, so this only
        // keeps the compiler from changing the order.
        fence(Ordering::SeqCst);
        if result.is_ok() && self.emergency.load(Ordering::Relaxed) {
            // Not by the mark: the emergency may have come before the hardware
            // was on, and cleared it.
            vendor.disable_cpu(cpu);
            result = Err(EnableError::Failed);
        }
        if result.is_err() {
            self.on.clear(cpu);
        }
        Ok(result?)
    }

    /// Switches this CPU off if it is on; it has interrupts off.
    // A call, because a closure's code is there twice.
    #[inline(never)]
    fn disable_here(&self, vendor: &dyn Hardware, cpu: CpuId) {
        if self.on.contains(cpu) {
            vendor.disable_cpu(cpu);
            self.on.clear(cpu);
        }
    }

    fn disable_all(&self, vendor: &dyn Hardware) {
        self.hal
            .call_on(&self.hal.online(), &|cpu| self.disable_here(vendor, cpu));
    }
}

/// Looks whether this CPU, which has interrupts off, can host guests.
#[inline(never)]
pub(crate) fn check_here(vendor: &dyn Hardware, cpu: CpuId) -> Result<(), Trouble> {
    if cpu as usize >= MAX_CPUS {
        return Err(Unsupported::NumberTooHigh.into());
    }
    Ok(vendor.check_cpu(cpu)?)
}

/// Runs `f` on every online CPU, with interrupts off. The caller holds the set
/// of CPUs. A CPU that has trouble does not keep the others from running `f`.
///
/// # Errors
///
/// What the first one met, which the log says in words.
pub(crate) fn for_all<H: Hal>(
    hal: &H,
    vendor: &dyn Hardware,
    f: &(dyn Fn(CpuId) -> Result<(), Trouble> + Sync),
) -> Result<(), Error> {
    let online = hal.online();
    if online.overflowed() {
        let trouble = Unsupported::NumberTooHigh.into();
        return Err(report(hal, vendor, MAX_CPUS as CpuId, trouble));
    }
    // CPU number and code of the first trouble; `call_on` waits for all, so
    // Relaxed is enough.
    let first = AtomicU64::new(NONE);
    hal.call_on(&online, &|cpu| note_first(&first, cpu, f(cpu)));
    match first.load(Ordering::Relaxed) {
        NONE => Ok(()),
        found => Err(report(
            hal,
            vendor,
            (found >> 8) as CpuId,
            Trouble(found as u8),
        )),
    }
}

/// No CPU has met trouble.
const NONE: u64 = u64::MAX;

#[inline(never)]
fn note_first(first: &AtomicU64, cpu: CpuId, result: Result<(), Trouble>) {
    if let Err(Trouble(code)) = result {
        let found = u64::from(cpu) << 8 | u64::from(code);
        let _ = first.compare_exchange(NONE, found, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Says in the log what is wrong with a CPU.
#[cold]
fn report<H: Hal>(hal: &H, vendor: &dyn Hardware, cpu: CpuId, trouble: Trouble) -> Error {
    hal.info(&[
        Word::Text(vendor.name()),
        Word::Text(": CPU "),
        Word::Number(cpu.into()),
        Word::Text(" "),
        Word::Text(trouble.text()),
    ]);
    trouble.into()
}

/// A set of CPUs whose members change by themselves, each on its own.
struct Marks([AtomicU64; MAX_CPUS / 64]);

impl Marks {
    /// A CPU's word, if it can be a member, and its bit in it.
    fn place(&self, cpu: CpuId) -> (Option<&AtomicU64>, u64) {
        (self.0.get(cpu as usize / 64), 1 << (cpu % 64))
    }

    fn contains(&self, cpu: CpuId) -> bool {
        let (word, bit) = self.place(cpu);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn set(&self, cpu: CpuId) {
        if let (Some(word), bit) = self.place(cpu) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn clear(&self, cpu: CpuId) {
        if let (Some(word), bit) = self.place(cpu) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}
