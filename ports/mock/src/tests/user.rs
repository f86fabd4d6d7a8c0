//! User memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use waterbear_hal::{Hva, Level, Pfn, ResolveError, User, Width};

use crate::{MapOptions, MockHost};

const HVA: Hva = Hva(0x7f00_0000_0000);

fn at(page: u64) -> Hva {
    HVA.checked_add_pages(page).unwrap()
}

#[test]
fn a_page_is_resolved_referenced_and_released() {
    let host = MockHost::new();
    let space = host.new_space();
    let pfn = space.map(HVA, 4, MapOptions::WRITABLE);
    let page = host.resolve(&space, at(2), true).unwrap();
    assert_eq!(
        (page.pfn, page.writable, page.level),
        (pfn.add(2), true, Level::L1)
    );
    assert_eq!(host.references(page.pfn), 1);
    host.release(page.pfn, true);
    assert!(host.is_dirty(page.pfn));
    host.assert_no_leaks();
}

#[test]
fn what_is_not_mapped_or_not_allowed_is_a_fault() {
    let host = MockHost::new();
    let space = host.new_space();
    space.map(HVA, 2, MapOptions::READ_ONLY);
    space.poison(at(1), 1);
    let error = |page, write| host.resolve(&space, at(page), write).err();
    assert_eq!(error(0, true), Some(ResolveError::Fault));
    assert_eq!(error(1, false), Some(ResolveError::Poisoned));
    assert_eq!(error(2, false), Some(ResolveError::Fault));
    space.fail_next_resolve(ResolveError::Interrupted);
    assert_eq!(error(0, false), Some(ResolveError::Interrupted));
    space.unmap(HVA, 2);
    assert_eq!(error(0, false), Some(ResolveError::Fault));
    host.assert_no_leaks();
}

#[test]
#[should_panic(expected = "nobody holds a reference")]
fn a_page_is_released_once() {
    let host = MockHost::new();
    let space = host.new_space();
    space.map(HVA, 1, MapOptions::WRITABLE);
    let page = host.resolve(&space, HVA, false).unwrap();
    host.release(page.pfn, false);
    host.release(page.pfn, false);
}

#[test]
#[should_panic(expected = "references to data page")]
fn a_reference_that_stays_is_a_leak() {
    let host = MockHost::new();
    let space = host.new_space();
    space.map(HVA, 1, MapOptions::WRITABLE);
    let _page = host.resolve(&space, HVA, false).unwrap();
    host.assert_no_leaks();
}

fn level(host: &MockHost, space: &crate::Space, page: u64) -> Level {
    let page = host.resolve(space, at(page), false).unwrap();
    host.release(page.pfn, false);
    page.level
}

#[test]
fn large_pages_need_alignment_and_room() {
    let host = MockHost::new();
    let space = host.new_space();
    let size = Level::L2.pages();
    let pfn = space.map(at(8), 3 * size, MapOptions::WRITABLE.up_to(Level::L3));
    assert_eq!(pfn.0 % size, 8);
    assert_eq!(level(&host, &space, 8), Level::L1);
    assert_eq!(level(&host, &space, size - 1), Level::L1);
    assert_eq!(level(&host, &space, size), Level::L2);
    assert_eq!(level(&host, &space, 3 * size - 1), Level::L2);
    assert_eq!(level(&host, &space, 3 * size), Level::L1);
}

#[test]
fn a_cut_splits_the_large_page_around_it_only() {
    let host = MockHost::new();
    let space = host.new_space();
    let size = Level::L2.pages();
    let big = Level::L3.pages();
    space.map(HVA, big, MapOptions::WRITABLE.up_to(Level::L3));
    assert_eq!(level(&host, &space, 5), Level::L3);
    space.protect(at(size + 3), 1, false);
    assert_eq!(level(&host, &space, 5), Level::L2);
    assert_eq!(level(&host, &space, size + 2), Level::L1);
    assert_eq!(level(&host, &space, size + 4), Level::L1);
    assert_eq!(level(&host, &space, 2 * size), Level::L2);
    assert_eq!(space.lookup(at(size + 4)).unwrap().0 & (big - 1), size + 4);
}

#[test]
fn a_large_page_needs_frames_aligned_like_the_address() {
    let host = MockHost::new();
    let space = host.new_space();
    let size = Level::L2.pages();
    let other = space.map(
        at(4 * size),
        2 * size,
        MapOptions::WRITABLE.up_to(Level::L2),
    );
    let options = MapOptions::WRITABLE.up_to(Level::L2);
    space.map_to(HVA, size, other.add(1), options);
    assert_eq!(level(&host, &space, 0), Level::L1);
    space.map_to(HVA, size, other, options);
    assert_eq!(level(&host, &space, 0), Level::L2);
    space.limit_level(HVA, size, Level::L1);
    assert_eq!(level(&host, &space, 0), Level::L1);
}

#[test]
fn a_hook_runs_between_look_up_and_return() {
    let host = MockHost::new();
    let space = host.new_space();
    let old = space.map(HVA, 1, MapOptions::WRITABLE);
    let new = Arc::new(AtomicU64::new(0));
    let (inner, seen) = (space.clone(), Arc::clone(&new));
    space.on_next_resolve(move |hva| {
        seen.store(inner.map(hva, 1, MapOptions::WRITABLE).0, Relaxed);
    });
    let page = host.resolve(&space, HVA, true).unwrap();
    assert_eq!(page.pfn, old);
    host.release(page.pfn, false);
    let page = host.resolve(&space, HVA, true).unwrap();
    assert_eq!(page.pfn, Pfn(new.load(Relaxed)));
    host.release(page.pfn, false);
}

#[test]
fn writes_of_the_guest_are_counted() {
    let host = MockHost::new();
    let space = host.new_space();
    let pfn = space.map(HVA, 1, MapOptions::WRITABLE);
    assert_eq!(host.data_write(pfn), 1);
    assert_eq!(host.data_write(pfn), 2);
    assert_eq!(host.data_read(pfn), 2);
}

#[test]
fn an_unmapped_page_lives_as_long_as_its_references() {
    let host = MockHost::new();
    let space = host.new_space();
    let pfn = space.map(HVA, 1, MapOptions::WRITABLE);
    let page = host.resolve(&space, HVA, true).unwrap();
    space.unmap(HVA, 1);
    host.data_write(pfn);
    host.release(page.pfn, true);
    assert!(!host.is_live(pfn));
}

#[test]
#[should_panic(expected = "which the host has back")]
fn a_write_through_a_stale_mapping_is_found() {
    let host = MockHost::new();
    let space = host.new_space();
    let pfn = space.map(HVA, 1, MapOptions::WRITABLE);
    space.unmap(HVA, 1);
    host.data_write(pfn);
}

#[test]
fn bytes_are_the_pages_and_zero_at_first() {
    let host = MockHost::new();
    let space = host.new_space();
    let pfn = space.map(HVA, 2, MapOptions::WRITABLE);
    let across = Hva(at(1).0 - 1);
    let mut buf = [1; 2];
    host.read(&space, across, &mut buf).unwrap();
    assert_eq!(buf, [0, 0]);
    host.write(&space, across, &[5, 6]).unwrap();
    host.data_read_bytes(pfn.add(1), 0, &mut buf);
    assert_eq!(buf, [6, 0]);
    host.data_write_bytes(pfn, 0xfff, &[7]);
    host.read(&space, across, &mut buf).unwrap();
    assert_eq!(buf, [7, 6]);
    // The same page elsewhere has the same bytes, a fresh one has not.
    space.map_to(at(8), 1, pfn.add(1), MapOptions::READ_ONLY);
    host.read(&space, at(8), &mut buf).unwrap();
    assert_eq!(buf, [6, 0]);
    space.map(at(1), 1, MapOptions::WRITABLE);
    host.read(&space, across, &mut buf).unwrap();
    assert_eq!(buf, [7, 0]);
}

#[test]
fn bytes_that_are_not_there_or_not_allowed_are_a_fault() {
    let host = MockHost::new();
    let space = host.new_space();
    space.map(HVA, 3, MapOptions::WRITABLE);
    space.protect(at(1), 1, false);
    space.poison(at(2), 1);
    let fault = Err(ResolveError::Fault);
    assert_eq!(host.read(&space, at(3), &mut [0]), fault);
    assert_eq!(host.read(&space, Hva(u64::MAX), &mut [0; 2]), fault);
    assert_eq!(host.write(&space, Hva(at(1).0 - 1), &[1; 2]), fault);
    let poisoned = Err(ResolveError::Poisoned);
    assert_eq!(host.read(&space, at(2), &mut [0]), poisoned);
    let exchange = host.compare_exchange(&space, at(1), Width::Word, 5, 6);
    assert_eq!(exchange, Err(ResolveError::Fault));
    space.fail_next_resolve(ResolveError::NoMemory);
    assert_eq!(host.write(&space, HVA, &[1]), Err(ResolveError::NoMemory));
    assert_eq!(host.write(&space, HVA, &[1]), Ok(()));
}

#[test]
#[should_panic(expected = "read may sleep, but this thread is in an RCU read section")]
fn bytes_are_not_for_contexts_that_must_not_sleep() {
    let host = MockHost::new();
    let space = host.new_space();
    space.map(HVA, 1, MapOptions::WRITABLE);
    let _section = waterbear_hal::RcuGuard::new(&host);
    let _ = host.read(&space, HVA, &mut [0]);
}

#[test]
#[should_panic(expected = "which is not aligned")]
fn an_exchange_is_aligned() {
    let host = MockHost::new();
    let space = host.new_space();
    space.map(HVA, 1, MapOptions::WRITABLE);
    let _ = host.compare_exchange(&space, Hva(HVA.0 + 1), Width::Word, 0, 1);
}
