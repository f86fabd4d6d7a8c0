//! A machine for one guest program: memory, devices, and what its vCPUs share.
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_core::lock::Mutex;
use waterbear_core::mem::{Box, Shared, Vec, array};
use waterbear_core::page_track::{TrackerRef, shared};
use waterbear_core::run::Leave;
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vendor::Vendor;
use waterbear_core::vm::{Registration, Vm};
use waterbear_guests::devices::{self, Devices};
use waterbear_guests::{End, LOAD, Program};
use waterbear_hal::{LockClass, LockKind};

use super::memory::{Backing, SLOTS};
use super::tracker::Told;
use crate::host::{self, Bare, timer};

/// The most vCPUs of a program.
pub const VCPUS: usize = 4;
/// Words of the dirty log of the largest slot.
const LOG_WORDS: usize = 64;
/// How long a program may run, in nanoseconds. Generous: the emulator's host may be busy.
const PATIENCE: u64 = 20_000_000_000;

/// How long one may run that never ends.
const MOMENT: u64 = 300_000_000;

static DEVICES: LockClass = LockClass {
    name: "devices",
    rank: 0,
    kind: LockKind::Sleeping,
};

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Passed,
    /// The check in this line failed; above 10000 an exception, whose vector is the rest.
    Check(u32),
    /// It was left for a reason for which it never should be.
    Left(Leave),
    /// The core could not go on.
    Error(Error),
    /// It waits for an interrupt that never comes.
    Asleep,
    TooManyExits,
    TooLong,
    /// The host's FPU has something else in it.
    HostFpu,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => f.write_str("passed"),
            Verdict::Check(n @ 10_000..) => write!(f, "exception {} was not expected", n - 10_000),
            Verdict::Check(line) => write!(f, "the check in line {line} failed"),
            Verdict::Left(leave) => write!(f, "it ended with {leave:?}"),
            Verdict::Error(error) => write!(f, "the core said {error:?}"),
            Verdict::Asleep => f.write_str("it waits for an interrupt that never comes"),
            Verdict::TooManyExits => f.write_str("too many exits"),
            Verdict::TooLong => f.write_str("it took too long"),
            Verdict::HostFpu => f.write_str("the FPU of the host has changed"),
        }
    }
}

/// What others want of one vCPU.
#[derive(Default)]
pub struct Wanted {
    /// Interrupts, by vector.
    vectors: [AtomicU64; 4],
    nmis: AtomicU32,
    /// Where it begins, plus one; 0 while it waits.
    start: AtomicU64,
}

impl Wanted {
    pub fn add_interrupt(&self, vector: u8) {
        let word = &self.vectors[usize::from(vector / 64)];
        word.fetch_or(1 << (vector % 64), Ordering::AcqRel);
    }

    /// Takes the interrupt with the highest vector.
    pub fn take_interrupt(&self) -> Option<u8> {
        for (index, word) in self.vectors.iter().enumerate().rev() {
            let bits = word.load(Ordering::Acquire);
            if bits != 0 {
                let bit = 63 - bits.leading_zeros();
                word.fetch_and(!(1 << bit), Ordering::AcqRel);
                return Some((index * 64) as u8 + bit as u8);
            }
        }
        None
    }

    pub fn has_interrupt(&self) -> bool {
        let any = |word: &AtomicU64| word.load(Ordering::Acquire) != 0;
        self.vectors.iter().any(any)
    }

    pub fn add_nmi(&self) {
        self.nmis.fetch_add(1, Ordering::AcqRel);
    }

    pub fn take_nmi(&self) -> bool {
        let less = |nmis: u32| nmis.checked_sub(1);
        self.nmis
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .is_ok()
    }

    /// Whether a halted vCPU has a reason to go on.
    pub fn wakes(&self) -> bool {
        self.has_interrupt() || self.nmis.load(Ordering::Acquire) != 0
    }

    /// Where it begins, once somebody has said so.
    pub fn started(&self) -> Option<u64> {
        self.start.load(Ordering::Acquire).checked_sub(1)
    }

    pub fn start_at(&self, address: u64) {
        self.start.store(address + 1, Ordering::Release);
    }
}

/// A machine.
pub struct Machine<'v, V: Vendor> {
    pub vendor: &'v V,
    pub program: &'static Program,
    pub vm: Shared<Vm<Bare>, Bare>,
    pub slots: Vec<Backing, Bare>,
    pub devices: Mutex<Bare, Devices<Box<[u8], Bare>>>,
    pub wanted: [Wanted; VCPUS],
    pub told: TrackerRef<Bare>,
    /// Keeps the tracker attached, once a program tracks.
    pub registration: Mutex<Bare, Option<Registration<Bare>>>,
    /// The log that was fetched last.
    pub log: Mutex<Bare, Box<[u64], Bare>>,
    pub exits: AtomicU32,
    deadline: u64,
    over: AtomicBool,
    verdict: Mutex<Bare, Option<Verdict>>,
}

impl<'v, V: Vendor> Machine<'v, V> {
    /// A machine that is about to run a program.
    pub fn new(vendor: &'v V, program: &'static Program) -> Result<Self, Error> {
        let format = vendor.entry_format();
        let vm = Vm::new(&Bare, (), format, DirtyTracking::WriteProtect)?;
        let vm = Shared::new(&Bare, vm)?;
        let mut slots = Vec::new_in(waterbear_core::mem::Heap(Bare));
        slots.try_reserve_exact(SLOTS)?;
        for &slot in program.slots {
            let backing = Backing::new(slot)?;
            if slot.gpa == 0 {
                backing.fill(LOAD as usize, program.image);
            }
            backing.set(&vm, slot.gpa, slot.flags, slot.size)?;
            slots.push(backing);
        }
        Ok(Self {
            vendor,
            program,
            vm,
            slots,
            devices: Mutex::new(
                &Bare,
                &DEVICES,
                Devices::new(array(&Bare, devices::ROOM, |_| 0)?),
            )?,
            wanted: Default::default(),
            told: shared(&Bare, Told)?,
            registration: Mutex::new(&Bare, &DEVICES, None)?,
            log: Mutex::new(&Bare, &DEVICES, array(&Bare, LOG_WORDS, |_| 0)?)?,
            exits: AtomicU32::new(0),
            deadline: timer::now()
                + match program.end {
                    End::Never => MOMENT,
                    _ => PATIENCE,
                },
            over: AtomicBool::new(false),
            verdict: Mutex::new(&Bare, &DEVICES, None)?,
        })
    }

    pub fn slot(&self, id: u32) -> Option<&Backing> {
        self.slots.iter().find(|backing| backing.slot.id == id)
    }

    /// Whether the program is over, for whatever reason.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Counts an exit; says what is wrong if there were too many, or too much time went by.
    pub fn count_exit(&self) -> Option<Verdict> {
        if self.exits.fetch_add(1, Ordering::Relaxed) > self.program.max_exits {
            return Some(Verdict::TooManyExits);
        }
        self.too_long()
    }

    pub fn too_long(&self) -> Option<Verdict> {
        (timer::now() > self.deadline).then_some(Verdict::TooLong)
    }

    /// Ends the program on every vCPU; the first reason counts.
    pub fn finish(&self, verdict: Verdict) {
        let mut place = self.verdict.lock();
        if place.is_none() {
            *place = Some(verdict);
        }
        drop(place);
        self.over.store(true, Ordering::Release);
        for index in 0..self.program.vcpus {
            self.tell(index as usize);
        }
    }

    /// The CPU that runs the first vCPU; the next one runs the next. A vCPU alone has this CPU,
    /// several have the last ones of the machine.
    ///
    /// So the first CPU is left out where there is one too many: in QEMU 7.2 every XRSTOR and
    /// FXRSTOR, on whichever CPU, reads flags of the first CPU and writes them back, with no lock
    /// (`cpu_clear_ignne`). Nested paging is among them: a guest that enters or leaves there
    /// meanwhile loses it, or the host gets it.
    pub fn first_cpu(&self) -> u32 {
        match self.program.vcpus {
            1 => 0,
            vcpus => host::count().saturating_sub(vcpus),
        }
    }

    /// Makes a vCPU look at what is wanted of it: what it wants is known here and not in the core,
    /// so its thread has to come out of the guest, or of its sleep.
    pub fn tell(&self, index: usize) {
        host::signal(self.first_cpu() + index as u32);
    }

    /// What the program must have come to, if it did not.
    pub fn failure(&self) -> Option<Verdict> {
        let verdict = (*self.verdict.lock()).unwrap_or(Verdict::Asleep);
        match (self.program.end, verdict) {
            (End::Done, Verdict::Passed)
            | (End::Shutdown, Verdict::Left(Leave::Shutdown))
            | (End::Never, Verdict::TooLong)
            | (End::Unsupported, Verdict::Left(Leave::EmulationFailed)) => None,
            (_, verdict) => Some(verdict),
        }
    }
}
