//! Where the walker reads entries.

use waterbear_hal::Pfn;
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

use crate::arena::State;
use crate::history::Event;
use crate::{Machine, Mock, POISON};

/// Page tables as hardware sees them.
pub trait EntryMemory {
    /// Reads an entry.
    fn read_entry(&self, table: Pfn, index: usize) -> u64;

    /// Sets accessed and dirty bits: `old` becomes `new`, unless the entry has
    /// changed; then nothing happens and the result is false. Where there is
    /// nothing to set, as in the past, it does nothing and succeeds.
    fn update_entry(&self, table: Pfn, index: usize, old: u64, new: u64) -> bool {
        let _ = (table, index, old, new);
        true
    }
}

impl Machine {
    #[track_caller]
    fn hardware_entry<R>(&self, table: Pfn, index: usize, f: impl FnOnce(&AtomicU64) -> R) -> R {
        assert!(index < ENTRIES, "a table has no entry {index}");
        match self.arena.state(table) {
            Some(State::Allocated | State::Deferred) => {}
            Some(State::Free) => {
                panic!("use after free: hardware walks the freed page table {table:?}")
            }
            None => panic!("hardware follows a link to {table:?}, which is no page table"),
        }
        let memory = self.arena.table(table);
        // SAFETY: a frame's memory stays until the machine goes.
        let memory = unsafe { memory.as_ref() };
        f(&memory.entries[index])
    }
}

impl<const NOTIFIER: bool> EntryMemory for Mock<NOTIFIER> {
    #[track_caller]
    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        // Acquire: hardware reads an entry before the table behind it.
        let value = self
            .0
            .hardware_entry(table, index, |entry| entry.load(Acquire));
        assert!(
            value != POISON,
            "use after free: hardware walks the freed page table {table:?}"
        );
        value
    }

    #[track_caller]
    fn update_entry(&self, table: Pfn, index: usize, old: u64, new: u64) -> bool {
        let done = self.0.hardware_entry(table, index, |entry| {
            entry.compare_exchange(old, new, AcqRel, Acquire).is_ok()
        });
        if done {
            self.0.record(Event::Hardware {
                table,
                index,
                old,
                new,
            });
        }
        done
    }
}
