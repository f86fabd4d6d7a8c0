//! Page tables, heap memory, failing allocations, leaks.

use std::alloc::Layout;

use waterbear_hal::lock::{Lock, LockClass, LockKind};
use waterbear_hal::{AllocError, Memory, Rcu, RcuGuard};

use super::{free, read, write};
use crate::{MockConfig, MockHost, POISON, TABLE_BASE};

#[test]
fn a_new_table_is_zero() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    assert!((0..512).all(|i| read(&host, table, i) == 0));
    free(&host, table);
    host.assert_no_leaks();
}

#[test]
#[should_panic(expected = "use after free: page table")]
fn a_freed_table_cannot_be_used() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    free(&host, table);
    read(&host, table, 0);
}

#[test]
fn a_stale_pointer_into_a_freed_table_reads_poison() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    // SAFETY: the table is allocated.
    let stale = unsafe { host.table(table) };
    free(&host, table);
    // SAFETY: the mock keeps the memory of freed tables.
    let stale = unsafe { stale.as_ref() };
    assert_eq!(
        stale.entries[7].load(std::sync::atomic::Ordering::Relaxed),
        POISON
    );
}

#[test]
#[should_panic(expected = "was set to 0x1")]
fn a_write_to_a_freed_table_is_found_when_the_frame_is_reused() {
    let host = MockHost::with(MockConfig::new().tables(1));
    let table = host.alloc_table().unwrap();
    // SAFETY: the table is allocated.
    let stale = unsafe { host.table(table) };
    free(&host, table);
    // SAFETY: the mock keeps the memory of freed tables.
    let stale = unsafe { stale.as_ref() };
    stale.entries[3].store(1, std::sync::atomic::Ordering::Relaxed);
    let _ = host.alloc_table();
}

#[test]
#[should_panic(expected = "use after free: entry 3 of the freed page table")]
fn a_reported_write_to_a_freed_table_is_found_at_once() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    free(&host, table);
    host.note_entry_write(table, 3, POISON, 1);
}

#[test]
#[should_panic(expected = "a link was read from a freed page table")]
fn a_link_made_of_poison_is_recognised() {
    let host = MockHost::new();
    let pfn = waterbear_hal::Pfn((POISON & ((1 << 52) - 1)) >> 12);
    // SAFETY: not kept; the mock is expected to notice.
    unsafe { host.table(pfn) };
}

#[test]
#[should_panic(expected = "double free")]
fn a_table_cannot_be_freed_twice() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    free(&host, table);
    free(&host, table);
}

#[test]
fn freed_frames_are_reused_last_and_in_order() {
    let host = MockHost::with(MockConfig::new().tables(4));
    let first = host.alloc_table().unwrap();
    let second = host.alloc_table().unwrap();
    assert_eq!(first, TABLE_BASE);
    write(&host, first, 0, 42);
    free(&host, first);
    free(&host, second);
    assert_eq!(host.alloc_table(), Ok(TABLE_BASE.add(2)));
    assert_eq!(host.alloc_table(), Ok(TABLE_BASE.add(3)));
    assert_eq!(host.alloc_table(), Ok(first));
    assert_eq!(read(&host, first, 0), 0);
    assert_eq!(host.alloc_table(), Ok(second));
    assert_eq!(host.alloc_table(), Err(AllocError));
}

#[test]
fn without_checks_frames_are_still_zeroed_for_reuse() {
    let host = MockHost::with(MockConfig::new().tables(1).checking(false));
    let table = host.alloc_table().unwrap();
    write(&host, table, 5, 42);
    free(&host, table);
    let table = host.alloc_table().unwrap();
    assert_eq!(read(&host, table, 5), 0);
}

#[test]
fn heap_memory_is_zeroed_counted_and_freed() {
    let host = MockHost::new();
    let layout = Layout::from_size_align(10_000, 64).unwrap();
    let block = host.alloc_bytes(layout).unwrap();
    // SAFETY: the block is that long and initialised.
    let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), layout.size()) };
    assert!(bytes.iter().all(|&b| b == 0));
    assert_eq!((host.live().blocks, host.live().bytes), (1, 10_000));
    // SAFETY: allocated above with this layout.
    unsafe { host.free_bytes(block, layout) };
    host.assert_no_leaks();
}

/// Allocates a block, and frees it inside an RCU section.
fn free_in_a_section(size: usize) {
    let host = MockHost::new();
    let layout = Layout::from_size_align(size, 8).unwrap();
    let block = host.alloc_bytes(layout).unwrap();
    let section = RcuGuard::new(&host);
    // SAFETY: allocated above with this layout.
    unsafe { host.free_bytes(block, layout) };
    drop(section);
    host.assert_no_leaks();
}

#[test]
fn a_small_block_is_freed_where_nothing_may_sleep() {
    free_in_a_section(4096);
}

#[test]
#[should_panic(expected = "free_bytes of more than a page")]
fn a_large_block_is_not_freed_where_nothing_may_sleep() {
    free_in_a_section(4104);
}

#[test]
#[should_panic(expected = "is freed as")]
fn heap_memory_goes_back_with_the_layout_it_came_with() {
    let host = MockHost::new();
    let block = host.alloc_bytes(Layout::new::<u64>()).unwrap();
    // SAFETY: not kept; the mock is expected to notice before it matters.
    unsafe { host.free_bytes(block, Layout::new::<u32>()) };
}

#[test]
#[should_panic(expected = "leaked")]
fn a_table_that_stays_is_a_leak() {
    let host = MockHost::new();
    let _ = host.alloc_table().unwrap();
    host.assert_no_leaks();
}

#[test]
#[should_panic(expected = "mutexes: 1")]
fn a_lock_that_stays_is_a_leak() {
    static CLASS: LockClass = LockClass {
        name: "a",
        rank: 1,
        kind: LockKind::Sleeping,
    };
    let host = MockHost::new();
    let _lock = host.new_mutex(&CLASS).unwrap();
    host.assert_no_leaks();
}

#[test]
fn the_chosen_allocation_fails_and_no_other() {
    let host = MockHost::new();
    host.fail_nth_alloc(2);
    let first = host.alloc_table().unwrap();
    assert!(!host.injection_fired());
    assert_eq!(host.alloc_bytes(Layout::new::<u64>()), Err(AllocError));
    assert!(host.injection_fired());
    let third = host.alloc_table().unwrap();
    assert_eq!(host.allocations(), 3);
    free(&host, first);
    free(&host, third);
}

#[test]
fn an_operation_can_be_run_once_for_each_of_its_allocations() {
    let host = MockHost::new();
    let failed = host.for_each_failing_alloc(|n| {
        let Ok(a) = host.alloc_table() else {
            return assert_eq!(n, 1);
        };
        match host.alloc_table() {
            Ok(b) => free(&host, b),
            Err(AllocError) => assert_eq!(n, 2),
        }
        free(&host, a);
    });
    assert_eq!(failed, 2);
    assert!(host.new_srcu().is_ok());
    host.assert_no_leaks();
}
