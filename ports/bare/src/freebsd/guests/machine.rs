//! A machine for one guest program: memory, devices, and what its vCPUs share.
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use waterbear_core::mem::{Box, array};
use waterbear_guests::devices::{self, Devices};
use waterbear_guests::{End, LOAD, Program, Slot};
use waterbear_hal::addr::PAGE_SIZE;

use crate::freebsd::calls::{Errno, Outcome};
use crate::freebsd::kvm::{Exit, Node, Vcpu, Vm};
use crate::guests::machine::{VCPUS, Wanted};
use crate::host::Bare;
use crate::host::irq_lock::IrqLock;

/// The most slots of a program.
const SLOTS: usize = 8;

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Passed,
    /// The check in this line failed; above 10000 an exception, whose vector is the rest.
    Check(u32),
    /// It was left for a reason for which it never should be.
    Left(Exit),
    /// A call failed.
    Error(Errno),
    /// It waits for an interrupt that never comes.
    Asleep,
    TooManyExits,
    TooLong,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => f.write_str("passed"),
            Verdict::Check(n @ 10_000..) => write!(f, "exception {} was not expected", n - 10_000),
            Verdict::Check(line) => write!(f, "the check in line {line} failed"),
            Verdict::Left(exit) => write!(f, "it ended with {exit:?}"),
            Verdict::Error(Errno(error)) => write!(f, "a call failed with error {error}"),
            Verdict::Asleep => f.write_str("it waits for an interrupt that never comes"),
            Verdict::TooManyExits => f.write_str("too many exits"),
            Verdict::TooLong => f.write_str("it took too long"),
        }
    }
}

/// The memory behind a slot. It stays when the slot goes.
#[derive(Clone, Copy)]
pub struct Backing {
    pub slot: Slot,
    /// Where the process has it.
    pub at: u64,
}

impl Backing {
    /// A word of it, if it has one at `offset`.
    pub fn word(&self, offset: u64) -> Option<u64> {
        let fits = offset.is_multiple_of(4) && offset < self.slot.size;
        fits.then_some(self.at + offset)
    }
}

/// How one vCPU is reached.
#[derive(Default)]
pub struct Reach {
    pub wanted: Wanted,
    /// It is to look up.
    pub look: AtomicBool,
    /// Where the process has its memory, once it is there.
    area: AtomicU64,
}

/// A machine, of the process that has made it.
pub struct Machine {
    pub program: &'static Program,
    pub node: Node,
    pub vm: Vm,
    slots: [Option<Backing>; SLOTS],
    pub devices: IrqLock<Devices<Box<[u8], Bare>>>,
    pub reach: [Reach; VCPUS],
    /// Where the process keeps the log that was fetched last.
    pub log: u64,
    /// The CPU of the first vCPU's thread.
    cpu: u32,
    exits: AtomicU32,
    over: AtomicBool,
    verdict: IrqLock<Option<Verdict>>,
}

impl Machine {
    /// A machine that is about to run a program, its first vCPU on this CPU and the others on those
    /// behind it.
    pub fn new(node: Node, program: &'static Program, cpu: u32) -> Outcome<Self> {
        const NO_MEMORY: Errno = Errno(12);
        let calls = node.calls;
        let vm = node.vm()?;
        let mut slots = [None; SLOTS];
        for (place, &slot) in slots.iter_mut().zip(program.slots) {
            let at = calls.mmap(-1, slot.size, 0)?;
            if slot.gpa == 0 {
                calls.poke(at + LOAD, program.image)?;
            }
            vm.set_slot(slot.id, slot.flags, slot.gpa, (at, slot.size))?;
            *place = Some(Backing { slot, at });
        }
        let room = array(&Bare, devices::ROOM, |_| 0).map_err(|_| NO_MEMORY)?;
        Ok(Self {
            program,
            node,
            vm,
            slots,
            devices: IrqLock::new(Devices::new(room)),
            reach: Default::default(),
            log: calls.mmap(-1, PAGE_SIZE, 0)?,
            cpu,
            exits: AtomicU32::new(0),
            over: AtomicBool::new(false),
            verdict: IrqLock::new(None),
        })
    }

    pub fn slot(&self, id: u32) -> Option<Backing> {
        let mut slots = self.slots.iter().flatten();
        slots.find(|backing| backing.slot.id == id).copied()
    }

    /// A vCPU is there, so that others can tell it something.
    pub fn announce(&self, index: usize, vcpu: &Vcpu) {
        if let Some(reach) = self.reach.get(index) {
            reach.area.store(vcpu.area, Ordering::Release);
        }
    }

    /// Makes a vCPU's thread look at what is wanted of it: that one may be in the guest, which a
    /// signal ends, or on its way there, where only a run that is to come back at once does.
    pub fn tell(&self, index: usize) {
        let Some(reach) = self.reach.get(index) else {
            return;
        };
        reach.look.store(true, Ordering::SeqCst);
        let area = reach.area.load(Ordering::Acquire);
        if area != 0 {
            let vcpu = Vcpu::elsewhere(self.node.calls, area);
            // The area is mapped as long as the machine is there.
            let _ = vcpu.come_back_at_once(true);
        }
        self.node.calls.signal(self.cpu + index as u32);
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
        self.verdict.with(|place| *place.get_or_insert(verdict));
        self.over.store(true, Ordering::Release);
        for index in 0..self.program.vcpus {
            self.tell(index as usize);
        }
        crate::host::wait::wake(0);
    }

    /// What the program must have come to, if it did not.
    pub fn failure(&self) -> Option<Verdict> {
        let verdict = self.verdict.with(|place| place.unwrap_or(Verdict::Asleep));
        match (self.program.end, verdict) {
            (End::Done, Verdict::Passed)
            | (End::Shutdown, Verdict::Left(Exit::Shutdown))
            | (End::Never, Verdict::TooLong)
            | (End::Unsupported, Verdict::Left(Exit::NotEmulated)) => None,
            (_, verdict) => Some(verdict),
        }
    }
}
