//! A vendor without hardware: it keeps books about which CPU is on, and panics
//! when it is used against its contract.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::{EnableError, Hardware, Unsupported};
use waterbear_hal::{Cpu, CpuId};
use waterbear_mock::MockHost;

use crate::Paging;

/// A moment at which a test can interfere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Before hardware is switched on.
    BeforeEnable,
    /// After hardware was switched on.
    AfterEnable,
    /// Before hardware is switched off.
    BeforeDisable,
    /// After hardware was switched off.
    AfterDisable,
}

type Interference = (Step, CpuId, fn(CpuId));

#[derive(Default)]
struct Books {
    lacks: BTreeMap<CpuId, Unsupported>,
    refuses: BTreeSet<CpuId>,
    foreign: BTreeSet<CpuId>,
    on: BTreeSet<CpuId>,
    checked: Vec<CpuId>,
    enables: usize,
    disables: usize,
    interfere: Option<Interference>,
}

/// The vendor.
pub struct FakeVendor {
    host: MockHost,
    name: &'static str,
    books: Mutex<Books>,
}

impl FakeVendor {
    /// A vendor that finds every CPU able.
    pub fn new(host: &MockHost, name: &'static str) -> Self {
        Self {
            host: host.clone(),
            name,
            books: Mutex::default(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cpu` lacks something from now on.
    pub fn lacks(&self, cpu: CpuId, what: Unsupported) {
        self.books().lacks.insert(cpu, what);
    }

    /// `cpu` refuses to be switched on, or no longer.
    pub fn refuses(&self, cpu: CpuId, refuses: bool) {
        if refuses {
            self.books().refuses.insert(cpu);
        } else {
            self.books().refuses.remove(&cpu);
        }
    }

    /// Somebody else uses `cpu`, or no longer.
    pub fn foreign(&self, cpu: CpuId, foreign: bool) {
        if foreign {
            self.books().foreign.insert(cpu);
        } else {
            self.books().foreign.remove(&cpu);
        }
    }

    /// Calls `f` at the next such step on `cpu`.
    pub fn interfere(&self, step: Step, cpu: CpuId, f: fn(CpuId)) {
        self.books().interfere = Some((step, cpu, f));
    }

    /// Whether the interference has not happened yet.
    pub fn interferes(&self) -> bool {
        self.books().interfere.is_some()
    }

    /// Power goes and comes: every CPU is off, whoever had it on.
    pub fn power_cycle(&self) {
        self.books().on.clear();
    }

    /// The CPUs that we have switched on.
    pub fn on(&self) -> Vec<CpuId> {
        self.books().on.iter().copied().collect()
    }

    /// The CPUs that were looked at since the last call.
    pub fn take_checked(&self) -> Vec<CpuId> {
        std::mem::take(&mut self.books().checked)
    }

    /// How many times a CPU was switched on, and off.
    pub fn switches(&self) -> (usize, usize) {
        let books = self.books();
        (books.enables, books.disables)
    }

    fn here(&self, cpu: CpuId) {
        assert_eq!(self.host.current_cpu(), cpu, "called on another CPU");
        assert!(!self.host.irq_disable(), "called with interrupts on");
    }

    fn step(&self, step: Step, cpu: CpuId) {
        let f = {
            let mut books = self.books();
            match books.interfere {
                Some((at, on, f)) if (at, on) == (step, cpu) => {
                    books.interfere = None;
                    Some(f)
                }
                _ => None,
            }
        };
        if let Some(f) = f {
            f(cpu);
        }
    }
}

impl Hardware for FakeVendor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn entry_format(&self) -> EntryFormat {
        Paging::Npt.format(Paging::ROOT)
    }

    fn check_cpu(&self, cpu: CpuId) -> Result<(), Unsupported> {
        self.here(cpu);
        let mut books = self.books();
        books.checked.push(cpu);
        books.lacks.get(&cpu).map_or(Ok(()), |what| Err(*what))
    }

    fn is_enabled(&self, cpu: CpuId) -> bool {
        self.here(cpu);
        let books = self.books();
        books.foreign.contains(&cpu) || books.on.contains(&cpu)
    }

    fn enable_cpu(&self, cpu: CpuId) -> Result<(), EnableError> {
        self.here(cpu);
        self.step(Step::BeforeEnable, cpu);
        {
            let mut books = self.books();
            if books.foreign.contains(&cpu) || books.on.contains(&cpu) {
                return Err(EnableError::Busy);
            }
            if books.refuses.contains(&cpu) {
                return Err(EnableError::Failed);
            }
            books.on.insert(cpu);
            books.enables += 1;
        }
        self.step(Step::AfterEnable, cpu);
        Ok(())
    }

    fn disable_cpu(&self, cpu: CpuId) {
        self.here(cpu);
        self.step(Step::BeforeDisable, cpu);
        {
            let mut books = self.books();
            if books.on.remove(&cpu) {
                books.disables += 1;
            }
        }
        self.step(Step::AfterDisable, cpu);
    }
}
