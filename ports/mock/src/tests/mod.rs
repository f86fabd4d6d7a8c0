//! Proofs that the mock finds what it says it finds.

mod cpus;
mod hardware;
mod locks;
mod memory;
mod reading;
mod rewind;
mod sleeping;
mod user;

use std::sync::atomic::Ordering::{AcqRel, Acquire};

use waterbear_hal::{Memory, Pfn};

use crate::MockHost;

/// Writes an entry as the core does: the store and the note.
fn write(host: &MockHost, table: Pfn, index: usize, new: u64) {
    // SAFETY: the tests own the tables that they write.
    let memory = unsafe { host.table(table) };
    // SAFETY: as above.
    let memory = unsafe { memory.as_ref() };
    let old = memory.entries[index].swap(new, AcqRel);
    host.note_entry_write(table, index, old, new);
}

/// Reads an entry as the core does.
fn read(host: &MockHost, table: Pfn, index: usize) -> u64 {
    // SAFETY: the tests read what they own, or mean to be caught.
    let memory = unsafe { host.table(table) };
    // SAFETY: as above.
    let memory = unsafe { memory.as_ref() };
    memory.entries[index].load(Acquire)
}

fn free(host: &MockHost, table: Pfn) {
    // SAFETY: the tests free what they own, or mean to be caught.
    unsafe { host.free_table(table) }
}

fn free_deferred(host: &MockHost, table: Pfn) {
    // SAFETY: the tests free what they own.
    unsafe { host.free_table_deferred(table) }
}
