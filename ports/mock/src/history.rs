//! Rewinding: what every page table held after each write.
//!
//! Recording is for operations of one thread: writes of several are noted in
//! the order in which they were reported.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use waterbear_hal::Pfn;
use waterbear_hal::memory::ENTRIES;

use crate::hw::EntryMemory;
use crate::sys::book;
use crate::{Machine, Mock, POISON};

/// Something that changed page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A page table was allocated, with every entry zero.
    Alloc {
        /// Its frame.
        table: Pfn,
    },
    /// A page table was really freed, after its grace period.
    Free {
        /// Its frame.
        table: Pfn,
    },
    /// The core wrote an entry.
    Write {
        /// The table's frame.
        table: Pfn,
        /// The entry's index.
        index: usize,
        /// What the entry held.
        old: u64,
        /// What it holds now.
        new: u64,
    },
    /// Simulated hardware set an accessed or dirty bit.
    Hardware {
        /// The table's frame.
        table: Pfn,
        /// The entry's index.
        index: usize,
        /// What the entry held.
        old: u64,
        /// What it holds now.
        new: u64,
    },
}

type Image = HashMap<Pfn, [u64; ENTRIES]>;

/// The events of the recording that runs, if one does.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Whether one runs: a look that costs less than the lock.
    on: AtomicBool,
    events: Mutex<Option<Vec<Event>>>,
}

impl Machine {
    /// Adds an event to the recording that runs.
    pub(crate) fn record(&self, event: Event) {
        if self.recorder.on.load(Relaxed)
            && let Some(events) = book(&self.recorder.events).as_mut()
        {
            events.push(event);
        }
    }

    fn image(&self) -> Image {
        let live = self.arena.live();
        live.into_iter()
            .map(|pfn| (pfn, self.entries(pfn)))
            .collect()
    }

    /// What a table holds now, whoever owns it.
    pub(crate) fn entries(&self, pfn: Pfn) -> [u64; ENTRIES] {
        let table = self.arena.table(pfn);
        // SAFETY: a frame's memory stays until the machine goes.
        let table = unsafe { table.as_ref() };
        std::array::from_fn(|i| table.entries[i].load(Acquire))
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Runs `op` and records every change to page tables.
    ///
    /// Panics when an entry changed that `op` did not report with
    /// `note_entry_write`.
    #[track_caller]
    pub fn record<R>(&self, op: impl FnOnce() -> R) -> (R, History) {
        let machine = &*self.0;
        let start = machine.image();
        let before = book(&machine.recorder.events).replace(Vec::new());
        assert!(before.is_none(), "a recording already runs");
        machine.recorder.on.store(true, Relaxed);
        machine.watching.store(true, Relaxed);
        let result = op();
        let events = book(&machine.recorder.events).take().unwrap_or_default();
        machine.recorder.on.store(false, Relaxed);
        machine.watching.store(machine.checking, Relaxed);
        let (history, noted) = History::new(start, events);
        for (table, entries) in machine.image() {
            let noted = noted[&table];
            for (index, (live, noted)) in entries.into_iter().zip(noted).enumerate() {
                assert!(
                    noted == live,
                    "entry {index} of {table:?} became {live:#x} without note_entry_write, \
                     which last said {noted:#x}"
                );
            }
        }
        (result, history)
    }
}

/// A recording.
pub struct History {
    start: Image,
    events: Vec<Event>,
    /// For each entry, the events that wrote it and the value since.
    writes: HashMap<(Pfn, usize), Vec<(usize, u64)>>,
    /// For each table, the events that gave all its entries one value.
    fills: HashMap<Pfn, Vec<(usize, u64)>>,
}

impl History {
    /// The recording, and what all tables held after it.
    #[track_caller]
    fn new(start: Image, events: Vec<Event>) -> (Self, Image) {
        let mut now = start.clone();
        let mut history = Self {
            start,
            events: Vec::new(),
            writes: HashMap::new(),
            fills: HashMap::new(),
        };
        for (number, event) in events.into_iter().enumerate() {
            match event {
                Event::Alloc { table } => {
                    now.insert(table, [0; ENTRIES]);
                    history.fill(table, number, 0);
                }
                Event::Free { table } => {
                    now.insert(table, [POISON; ENTRIES]);
                    history.fill(table, number, POISON);
                }
                Event::Write {
                    table,
                    index,
                    old,
                    new,
                }
                | Event::Hardware {
                    table,
                    index,
                    old,
                    new,
                } => {
                    let entries = now.get_mut(&table);
                    let entry = entries.and_then(|entries| entries.get_mut(index));
                    let Some(entry) = entry else {
                        panic!("{event:?}, but {table:?} has no such entry");
                    };
                    assert!(
                        *entry == old,
                        "{event:?}, but before that it was {entry:#x}"
                    );
                    *entry = new;
                    let writes = history.writes.entry((table, index)).or_default();
                    writes.push((number, new));
                }
            }
            history.events.push(event);
        }
        (history, now)
    }

    fn fill(&mut self, table: Pfn, number: usize, value: u64) {
        self.fills.entry(table).or_default().push((number, value));
    }

    /// What happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The writes of entries alone, by the core and by hardware.
    pub fn writes(&self) -> impl Iterator<Item = Event> + '_ {
        let write = |e: &Event| matches!(e, Event::Write { .. } | Event::Hardware { .. });
        self.events.iter().copied().filter(move |e| write(e))
    }

    /// The state before the first event, and the state after each.
    pub fn moments(&self) -> impl Iterator<Item = Moment<'_>> {
        (0..=self.events.len()).map(|after| Moment {
            history: self,
            after,
        })
    }

    /// The state before the first event.
    pub fn first(&self) -> Moment<'_> {
        Moment {
            history: self,
            after: 0,
        }
    }

    /// The state after the last event.
    pub fn last(&self) -> Moment<'_> {
        Moment {
            history: self,
            after: self.events.len(),
        }
    }

    /// The tables that existed at some time.
    pub fn tables(&self) -> BTreeSet<Pfn> {
        self.start
            .keys()
            .chain(self.fills.keys())
            .copied()
            .collect()
    }
}

/// All page tables as they were between two events.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    history: &'a History,
    after: usize,
}

impl Moment<'_> {
    /// How many events had happened.
    pub fn number(&self) -> usize {
        self.after
    }

    /// What had just happened; `None` at the start.
    pub fn event(&self) -> Option<Event> {
        let last = self.after.checked_sub(1)?;
        self.history.events.get(last).copied()
    }
}

impl EntryMemory for Moment<'_> {
    #[track_caller]
    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        let history = self.history;
        let before = |list: Option<&Vec<(usize, u64)>>| {
            let list = list?;
            let at = list.partition_point(|&(number, _)| number < self.after);
            list.get(at.checked_sub(1)?).copied()
        };
        let write = before(history.writes.get(&(table, index)));
        let fill = before(history.fills.get(&table));
        // The later one counts; numbers differ.
        match write.max(fill) {
            Some((_, value)) => value,
            None => match history.start.get(&table) {
                Some(entries) => entries[index],
                None => panic!("at moment {} {table:?} was no page table", self.after),
            },
        }
    }
}
