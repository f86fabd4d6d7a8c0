//! A machine for one guest program: memory, devices, and what its vCPUs share.
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use waterbear_guests::devices::{self, Devices};
use waterbear_guests::{End, LOAD, Program, Slot};

use crate::kvm::{Bell, Exit, Node, Vm};
use crate::sys::{Home, Mapping};

/// How long a program may run. Generous: the machine may be an emulated one on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one may run that never ends.
const MOMENT: Duration = Duration::from_millis(300);

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It said that it passed.
    Passed,
    /// The check in this line failed; above 10000 an exception, whose vector is the rest.
    Check(u32),
    /// It was left for a reason for which it never should be.
    Left(Exit),
    /// A call failed.
    Error(String),
    /// It waits for an interrupt that never comes.
    Asleep,
    /// It is stuck.
    TooManyExits,
    /// It did not end in time.
    TooLong,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => f.write_str("passed"),
            Verdict::Check(n @ 10_000..) => write!(f, "exception {} was not expected", n - 10_000),
            Verdict::Check(line) => write!(f, "the check in line {line} failed"),
            Verdict::Left(exit) => write!(f, "it ended with {exit:?}"),
            Verdict::Error(error) => f.write_str(error),
            Verdict::Asleep => f.write_str("it waits for an interrupt that never comes"),
            Verdict::TooManyExits => f.write_str("too many exits"),
            Verdict::TooLong => f.write_str("it took too long"),
        }
    }
}

/// The memory behind a slot. It stays when the slot goes.
#[derive(Debug)]
pub struct Backing {
    pub slot: Slot,
    pub memory: Mapping,
}

/// What others want of one vCPU.
#[derive(Debug, Default)]
pub struct Wanted {
    pub home: Home,
    /// Its vCPU's, once that is there.
    pub bell: OnceLock<Bell>,
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

/// The same, to be looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Interrupts, by vector.
    vectors: [u64; 4],
    pub nmis: u32,
    /// Where it begins, once somebody has said so.
    pub start: Option<u64>,
    /// It is to look up.
    look: bool,
}

impl Wishes {
    pub fn add_interrupt(&mut self, vector: u8) {
        self.vectors[usize::from(vector / 64)] |= 1 << (vector % 64);
    }

    /// Takes the interrupt with the highest vector.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        let words = (0..).zip(&mut self.vectors);
        let (index, word) = words.filter(|(_, word)| **word != 0).last()?;
        let bit = word.ilog2() as u8;
        *word &= !(1 << bit);
        Some(index * 64 + bit)
    }

    pub fn has_interrupt(&self) -> bool {
        self.vectors != [0; 4]
    }

    /// Whether a halted vCPU has a reason to go on.
    pub fn wakes(&self) -> bool {
        self.has_interrupt() || self.nmis != 0
    }
}

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the wishes, or takes some of them.
    pub fn with<R>(&self, act: impl FnOnce(&mut Wishes) -> R) -> R {
        act(&mut self.lock())
    }

    /// Makes the vCPU's thread look at what is wanted.
    pub fn tell(&self) {
        self.lock().look = true;
        self.changed.notify_all();
        // A run that has not begun yet does not see the signal, but the bell; see
        // `Drive::try_step`.
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
        self.home.kick();
    }

    /// Sleeps until somebody tells.
    pub fn sleep(&self) {
        let mut wishes = self.lock();
        while !wishes.look {
            wishes = self
                .changed
                .wait(wishes)
                .unwrap_or_else(PoisonError::into_inner);
        }
        wishes.look = false;
    }

    /// Whether somebody has told since the last time.
    pub fn looked(&self) -> bool {
        std::mem::take(&mut self.lock().look)
    }
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    pub program: &'static Program,
    /// What its programs must not expect.
    pub quirks: u32,
    pub vm: Vm,
    pub slots: Vec<Backing>,
    pub devices: Mutex<Devices<Vec<u8>>>,
    pub wanted: Vec<Wanted>,
    /// The log that was fetched last.
    pub log: Mutex<Vec<u64>>,
    exits: AtomicU32,
    over: AtomicBool,
    verdict: Mutex<Option<Verdict>>,
    ended: Condvar,
}

impl Machine {
    /// A machine that is about to run a program.
    pub fn new(node: &Node, program: &'static Program, quirks: u32) -> io::Result<Self> {
        let vm = node.vm()?;
        let mut slots = Vec::new();
        for &slot in program.slots {
            let memory = Mapping::new(slot.size as usize)?;
            if slot.gpa == 0 {
                memory.write(LOAD as usize, program.image);
            }
            vm.set_slot(slot.id, slot.flags, slot.gpa, &memory)?;
            slots.push(Backing { slot, memory });
        }
        Ok(Self {
            program,
            quirks,
            vm,
            slots,
            devices: Mutex::new(Devices::new(vec![0; devices::ROOM])),
            wanted: (0..program.vcpus).map(|_| Wanted::default()).collect(),
            log: Mutex::default(),
            exits: AtomicU32::new(0),
            over: AtomicBool::new(false),
            verdict: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    pub fn slot(&self, id: u32) -> Option<&Backing> {
        self.slots.iter().find(|backing| backing.slot.id == id)
    }

    /// Whether the program is over, for whatever reason.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Counts an exit; says what is wrong if there were too many.
    pub fn count_exit(&self) -> Option<Verdict> {
        let exits = self.exits.fetch_add(1, Ordering::Relaxed);
        (exits > self.program.max_exits).then_some(Verdict::TooManyExits)
    }

    /// Ends the program on every vCPU; the first reason counts.
    pub fn finish(&self, verdict: Verdict) {
        let mut place = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert(verdict);
        self.over.store(true, Ordering::Release);
        drop(place);
        self.ended.notify_all();
        self.wanted.iter().for_each(Wanted::tell);
    }

    /// Waits until the program is over, or ends it when its time is over.
    pub fn watch(&self) {
        let time = match self.program.end {
            End::Never => MOMENT,
            _ => PATIENCE,
        };
        let deadline = Instant::now() + time;
        let mut place = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        while place.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(place);
                return self.finish(Verdict::TooLong);
            }
            (place, _) = self
                .ended
                .wait_timeout(place, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the program must have come to, if it did not.
    pub fn failure(&self) -> Option<Verdict> {
        let place = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = place.clone().unwrap_or(Verdict::Asleep);
        match (self.program.end, verdict) {
            (End::Done, Verdict::Passed)
            | (End::Shutdown, Verdict::Left(Exit::Shutdown))
            | (End::Never, Verdict::TooLong)
            | (End::Unsupported, Verdict::Left(Exit::NotEmulated)) => None,
            (_, verdict) => Some(verdict),
        }
    }
}
