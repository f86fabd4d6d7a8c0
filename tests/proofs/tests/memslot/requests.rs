//! Which requests are legal, and what each does.
use waterbear_core::Error;
use waterbear_core::memslot::{MAX_PAGES, MAX_SLOTS, Memslots, Region, SpaceId};
use waterbear_hal::Gfn;

use crate::vm::{Event, GFN_END, Hooks, LOG_DIRTY, READONLY, SlotDump, Vm, gone, machine, region};

/// Numbers of bytes around everything that matters.
fn edges(more: &[u64]) -> Vec<u64> {
    let mut values = vec![0, 1, 0x800, 0xfff, 0x1000, 0x1001, 0x2000];
    for &edge in more {
        for by in [0x1000, 1] {
            values.extend([edge.wrapping_sub(by), edge, edge.wrapping_add(by)]);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Whether a region can be a new slot of an empty VM, in unlimited arithmetic.
fn is_legal(r: Region) -> bool {
    let (gpa, size, hva) = (
        u128::from(r.guest_phys_addr),
        u128::from(r.memory_size),
        u128::from(r.userspace_addr),
    );
    r.flags & !3 == 0
        && r.space < 2
        && (r.id as usize) < MAX_SLOTS
        && gpa % 4096 == 0
        && size % 4096 == 0
        && hva % 4096 == 0
        && size > 0
        && size / 4096 <= u128::from(MAX_PAGES)
        && gpa + size <= u128::from(GFN_END.0) * 4096
        && hva + size <= 1 << 63
}

/// Makes the request on an empty VM; undoes it when it is accepted.
fn check(vm: &Vm, r: Region) {
    let generation = [vm.generation(SpaceId::NORMAL), vm.generation(SpaceId::SMM)];
    let (result, events) = vm.events(r);
    if is_legal(r) {
        assert_eq!(result, Ok(()), "{r:?}");
        assert_eq!(vm.slots.lock().total_pages(), r.memory_size / 4096);
        vm.set(gone(r.space, r.id)).expect("it is there");
    } else {
        assert_eq!(result, Err(Error::Invalid), "{r:?}");
        assert_eq!(events, [], "{r:?}");
        let now = [vm.generation(SpaceId::NORMAL), vm.generation(SpaceId::SMM)];
        assert_eq!(now, generation, "nothing was published: {r:?}");
    }
    assert_eq!(vm.slots.lock().total_pages(), 0);
}

/// Proves MS-8.
#[test]
fn every_combination_of_bad_numbers_is_refused_and_every_good_one_accepted() {
    let vm = Vm::new();
    let good = region(0, 0, 0, 1, 0, 0);
    let top = GFN_END.0 << 12;
    // Large sizes are legal only in the last of these lists: their counts take
    // time to make.
    let sizes = edges(&[1 << 63, u64::MAX, top]);
    for gpa in edges(&[top, 1 << 52, 1 << 63, u64::MAX]) {
        for &size in &sizes {
            if cfg!(miri) && gpa > 0x1000 {
                continue;
            }
            for hva in [0, 1, 0x1000, 0x7fff_ffff_f000, 0x7fff_ffff_ffff_f000] {
                check(
                    &vm,
                    Region {
                        guest_phys_addr: gpa,
                        memory_size: size,
                        userspace_addr: hva,
                        ..good
                    },
                );
            }
        }
    }
    for hva in edges(&[1 << 47, 1 << 63, u64::MAX]) {
        for size in [0, 1, 0x1000, 0x2000, u64::MAX - 0xfff] {
            check(
                &vm,
                Region {
                    memory_size: size,
                    userspace_addr: hva,
                    ..good
                },
            );
        }
    }
    let huge = if cfg!(miri) { 2..=2 } else { 0..=2 };
    for more in huge {
        let size = (MAX_PAGES - 1 + more) << 12;
        check(
            &vm,
            Region {
                memory_size: size,
                ..good
            },
        );
    }
    vm.finish();
}

/// Proves MS-8.
#[test]
fn flags_spaces_and_ids_are_checked_as_sent() {
    let vm = Vm::new();
    let max = MAX_SLOTS as u32;
    let good = region(0, 0, 3, 1, 7, 0);
    for bit in 0..32 {
        for low in 0..4 {
            let flags = 1 << bit | low;
            check(&vm, Region { flags, ..good });
        }
    }
    // Truncated to 16, 8 or 1 bits, many of these would be right.
    for space in [0, 1, 2, 3, 0x100, 0x101, 0x1_0000, 0x1_0001, u32::MAX] {
        for id in [
            0,
            1,
            max - 1,
            max,
            max + 1,
            0x7fff,
            0x8000,
            0xffff,
            0x1_0000,
            0x1_0001,
            0x8000_0000,
            u32::MAX,
        ] {
            check(&vm, Region { space, id, ..good });
        }
    }
    vm.finish();
}

/// Proves MS-8.
#[test]
fn the_slot_word_of_the_interface_is_taken_apart_without_losing_bits() {
    let named = Region::named(0x0001_0007, 1, 0x3000, 0x1000, 0x7000);
    assert_eq!(named, region(1, 7, 3, 1, 7, 1));
    let vm = Vm::new();
    assert_eq!(
        vm.set(Region::named(0x0002_0000, 0, 0, 0x1000, 0)),
        Err(Error::Invalid)
    );
    assert_eq!(
        vm.set(Region::named(0x0000_ffff, 0, 0, 0x1000, 0)),
        Err(Error::Invalid)
    );
    vm.finish();
}

/// Proves MS-8.
#[test]
fn a_range_that_ends_exactly_at_the_top_is_legal() {
    let vm = Vm::new();
    vm.set(region(0, 0, GFN_END.0 - 4, 4, 16, 0))
        .expect("legal");
    assert_eq!(
        vm.set(region(0, 1, GFN_END.0 - 3, 4, 16, 0)),
        Err(Error::Invalid)
    );
    vm.finish();

    // The top of all that 64 bits of address can name.
    let host = machine::<true>();
    let slots = Memslots::new(&host, Gfn(u64::MAX)).expect("memory");
    let last = region(0, 0, (1 << 52) - 1, 1, 16, 0);
    assert_eq!(slots.set_region(&Hooks::default(), last), Ok(()));
    assert!(
        slots
            .read()
            .set(SpaceId::NORMAL)
            .by_gfn(Gfn((1 << 52) - 1))
            .is_some()
    );
    let wraps = region(0, 1, (1 << 52) - 2, 3, 16, 0);
    assert_eq!(
        slots.set_region(&Hooks::default(), wraps),
        Err(Error::Invalid)
    );
    drop(slots);
    host.assert_no_leaks();
}

/// Proves MS-8.
#[test]
fn what_an_existing_slot_keeps_cannot_change() {
    let vm = Vm::new();
    for flags in 0..4 {
        let now = region(0, 5, 0x100, 8, 0x500, flags);
        vm.set(now).expect("create");
        let before = vm.dump();
        let other_readonly = Region {
            flags: flags ^ READONLY,
            ..now
        };
        for change in [
            region(0, 5, 0x100, 8, 0x501, flags),
            region(0, 5, 0x200, 8, 0x501, flags),
            region(0, 5, 0x100, 7, 0x500, flags),
            region(0, 5, 0x100, 9, 0x500, flags),
            region(0, 5, 0x200, 9, 0x500, flags),
            other_readonly,
            region(0, 5, 0x200, 8, 0x500, other_readonly.flags),
        ] {
            assert_eq!(vm.set(change), Err(Error::Invalid), "{change:?}");
        }
        assert_eq!(vm.dump(), before);
        vm.set(gone(0, 5)).expect("delete");
    }
    vm.finish();
}

/// Proves MS-8.
#[test]
fn overlap_is_refused_in_one_space_and_allowed_across_spaces() {
    let vm = Vm::new();
    vm.set(region(0, 0, 10, 10, 100, 0)).expect("create");
    vm.set(region(0, 1, 40, 5, 200, 0)).expect("create");
    let before = vm.dump();
    for gfn in (0..50).step_by(if cfg!(miri) { 9 } else { 1 }) {
        for npages in (1..12).step_by(if cfg!(miri) { 4 } else { 1 }) {
            let frames = gfn..gfn + npages;
            let meets = |base: u64, end: u64| frames.start < end && base < frames.end;
            let overlaps = meets(10, 20) || meets(40, 45);
            let new = region(0, 2, gfn, npages, 300, 0);
            let moved = region(0, 1, gfn, 5, 200, 0);
            if overlaps {
                assert_eq!(vm.set(new), Err(Error::Exists), "{gfn} {npages}");
            } else {
                assert_eq!(vm.set(new), Ok(()), "{gfn} {npages}");
                vm.set(gone(0, 2)).expect("delete");
            }
            // A slot does not overlap itself.
            if npages == 5 && meets(10, 20) {
                assert_eq!(vm.set(moved), Err(Error::Exists), "{gfn}");
            }
            vm.set(region(1, 2, gfn, npages, 300, 0))
                .expect("other space");
            vm.set(gone(1, 2)).expect("delete");
        }
    }
    assert_eq!(vm.dump(), before);
    vm.set(region(0, 1, 42, 5, 200, 0))
        .expect("moves over itself");
    vm.finish();
}

/// Proves MS-8.
#[test]
fn deleting_what_does_not_exist_is_an_error_and_an_identical_request_is_nothing() {
    let vm = Vm::new();
    assert_eq!(vm.set(gone(0, 0)), Err(Error::Invalid));
    let slot = region(0, 3, 8, 4, 64, LOG_DIRTY);
    vm.set(slot).expect("create");
    for missing in [gone(0, 0), gone(0, 2), gone(0, 4), gone(1, 3)] {
        assert_eq!(vm.set(missing), Err(Error::Invalid));
    }
    let (before, generation) = (vm.dump(), vm.generation(SpaceId::NORMAL));
    let allocations = vm.host.allocations();
    assert_eq!(vm.events(slot), (Ok(()), vec![]));
    assert_eq!(vm.dump(), before);
    assert_eq!(vm.generation(SpaceId::NORMAL), generation);
    assert_eq!(vm.host.allocations(), allocations);
    // The address of a deletion does not matter, as long as it is one.
    assert_eq!(vm.set(region(0, 3, 77, 0, 99, 0)), Ok(()));
    assert_eq!(vm.set(gone(0, 3)), Err(Error::Invalid));
    vm.finish();
}

/// Proves MS-8, BUG-2.
#[test]
fn the_total_of_pages_follows_every_change_and_fits() {
    let vm = Vm::new();
    let total = || vm.slots.lock().total_pages();
    vm.set(region(0, 0, 0, 10, 0, 0)).expect("create");
    vm.set(region(1, 0, 0, 7, 0, 0)).expect("create");
    assert_eq!(total(), 17);
    vm.set(region(0, 0, 100, 10, 0, 0)).expect("move");
    vm.set(region(0, 0, 100, 10, 0, LOG_DIRTY)).expect("flags");
    assert_eq!(total(), 17);
    vm.set(gone(0, 0)).expect("delete");
    assert_eq!(total(), 7);
    vm.set(gone(1, 0)).expect("delete");
    assert_eq!(total(), 0);
    let most = MAX_PAGES.checked_mul(2 * MAX_SLOTS as u64);
    assert!(most.is_some(), "the largest total fits in 64 bits");
    vm.finish();
}

/// Proves MS-3, MS-8.
#[test]
fn each_kind_of_change_does_what_it_says() {
    let vm = Vm::new();
    let find = |gfn| {
        let read = vm.slots.read();
        let found = read.set(SpaceId::NORMAL).by_gfn(Gfn(gfn));
        found.map(|slot| SlotDump::of(slot))
    };
    let committed = |events: &[Event]| match events.last() {
        Some(Event::Committed { kind, old, new }) => (*kind, old.clone(), new.clone()),
        other => panic!("{other:?}"),
    };

    let (_, events) = vm.events(region(0, 9, 0x40, 4, 0x80, 0));
    let created = find(0x40).expect("there");
    assert_eq!(committed(&events), ("create", None, Some(created.clone())));
    assert_eq!(created.dirty, 0);

    let (_, events) = vm.events(region(0, 9, 0x40, 4, 0x80, LOG_DIRTY));
    let logged = find(0x43).expect("there");
    assert_eq!(
        committed(&events),
        ("flags", Some(created.clone()), Some(logged.clone()))
    );
    assert_eq!(logged.arch, created.arch, "arch data stays");
    assert_ne!(logged.dirty, 0);

    let (_, events) = vm.events(region(0, 9, 0x60, 4, 0x80, LOG_DIRTY));
    let moved = find(0x60).expect("there");
    assert_eq!(find(0x40), None);
    assert_eq!(
        committed(&events),
        ("move", Some(logged.clone()), Some(moved.clone()))
    );
    assert_eq!(moved.dirty, logged.dirty, "what was written stays written");
    assert_ne!(moved.arch, logged.arch, "arch data is made for the place");

    let (_, events) = vm.events(gone(0, 9));
    assert_eq!(committed(&events), ("delete", Some(moved), None));
    assert_eq!(find(0x60), None);
    vm.finish();
}

/// Proves MS-8, PT-6.
#[test]
fn a_refused_move_changes_nothing() {
    let vm = Vm::new();
    vm.set(region(0, 0, 0, 4, 0, 0)).expect("create");
    let before = (vm.dump(), vm.generation(SpaceId::NORMAL));
    let hooks = Hooks {
        move_allowed: false,
        ..Hooks::default()
    };
    let moved = vm.slots.set_region(&hooks, region(0, 0, 8, 4, 0, 0));
    assert_eq!(moved, Err(Error::Invalid));
    assert_eq!((vm.dump(), vm.generation(SpaceId::NORMAL)), before);
    assert_eq!(*hooks.events.borrow(), []);
    // Everything else is allowed.
    let flags = region(0, 0, 0, 4, 0, LOG_DIRTY);
    assert_eq!(vm.slots.set_region(&hooks, flags), Ok(()));
    assert_eq!(vm.slots.set_region(&hooks, gone(0, 0)), Ok(()));
    drop(hooks);
    vm.finish();
}
