//! Recordings.

use std::sync::atomic::Ordering::Relaxed;

use waterbear_hal::{Gpa, Level, Memory, RcuGuard};

use super::{free, free_deferred, write};
use crate::hw::{Access, EntryMemory, Format, RawLeaf, Walker};
use crate::{Event, MockHost, POISON};

#[test]
fn each_moment_shows_memory_as_it_was() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    write(&host, table, 1, 10);
    let (_, history) = host.record(|| {
        write(&host, table, 1, 11);
        write(&host, table, 2, 20);
        write(&host, table, 1, 12);
    });
    let seen: Vec<_> = history
        .moments()
        .map(|m| (m.read_entry(table, 1), m.read_entry(table, 2)))
        .collect();
    assert_eq!(seen, [(10, 0), (11, 0), (11, 20), (12, 20)]);
    assert_eq!(history.writes().count(), 3);
    free(&host, table);
}

#[test]
fn tables_come_and_go_in_a_recording() {
    let host = MockHost::new();
    let (table, history) = host.record(|| {
        let table = host.alloc_table().unwrap();
        write(&host, table, 0, 1);
        let _guard = RcuGuard::new(&host);
        free_deferred(&host, table);
        write(&host, table, 0, 2);
        table
    });
    let events = history.events();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0], Event::Alloc { table });
    assert_eq!(events[3], Event::Free { table });
    assert!(history.tables().contains(&table));
    let last: Vec<_> = history
        .moments()
        .skip(1)
        .map(|m| m.read_entry(table, 0))
        .collect();
    assert_eq!(last, [0, 1, 2, POISON]);
}

#[test]
#[should_panic(expected = "was no page table")]
fn a_table_cannot_be_read_before_it_existed() {
    let host = MockHost::new();
    let (table, history) = host.record(|| host.alloc_table().unwrap());
    history.first().read_entry(table, 0);
}

#[test]
#[should_panic(expected = "without note_entry_write")]
fn a_write_that_is_not_reported_is_found() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    host.record(|| {
        // SAFETY: the table is allocated.
        let memory = unsafe { host.table(table) };
        // SAFETY: as above.
        let memory = unsafe { memory.as_ref() };
        memory.entries[9].store(1, Relaxed);
    });
}

#[test]
fn a_walker_sees_the_past_and_hardware_is_recorded() {
    let host = MockHost::new();
    let format = Format::Ept {
        ad: true,
        exec_only: true,
    };
    let walker = Walker::new(format, Level::L1);
    let table = host.alloc_table().unwrap();
    let leaf = |n: u64| {
        format.leaf(RawLeaf {
            pfn: crate::DATA_BASE.add(n),
            level: Level::L1,
            allows: Access::ALL,
        })
    };
    let (_, history) = host.record(|| {
        write(&host, table, 0, leaf(1));
        walker
            .translate(&host, table, Gpa(0), Access::WRITE)
            .unwrap();
        write(&host, table, 0, leaf(2));
    });
    assert!(matches!(history.events()[1], Event::Hardware { .. }));
    let seen: Vec<_> = history
        .moments()
        .map(|m| walker.translate(&m, table, Gpa(0), Access::READ).ok())
        .map(|t| t.map(|t| t.pfn.0 - crate::DATA_BASE.0))
        .collect();
    assert_eq!(seen, [None, Some(1), Some(1), Some(2)]);
}

#[test]
#[should_panic(expected = "but before that it was 0x1")]
fn a_write_reported_with_the_wrong_old_value_is_found() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    write(&host, table, 3, 1);
    host.record(|| host.note_entry_write(table, 3, 2, 1));
}
