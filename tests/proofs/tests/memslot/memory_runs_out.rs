//! Each allocation fails once, and nothing has changed.
use waterbear_core::Error;
use waterbear_core::memslot::{Memslots, Region, SpaceId};

use crate::vm::{Dump, Event, GFN_END, LOG_DIRTY, Vm, gone, machine, region};

/// A VM with three slots in two spaces, and the updates to try on it.
fn vm(tracks: bool) -> Vm {
    let vm = Vm::new();
    vm.set(region(0, 0, 0x100, 0x300, 0x700, 0))
        .expect("create");
    vm.set(region(0, 7, 0x900, 0x10, 0x700, LOG_DIRTY))
        .expect("create");
    vm.set(region(1, 0, 0x100, 0x10, 0x700, 0)).expect("create");
    if tracks {
        vm.slots.activate_track().expect("memory");
    }
    vm
}

const UPDATES: [(&str, Region); 8] = {
    const fn r(id: u32, gfn: u64, npages: u64, hva: u64, flags: u32) -> Region {
        Region {
            space: 0,
            id,
            flags,
            guest_phys_addr: gfn << 12,
            memory_size: npages << 12,
            userspace_addr: hva << 12,
        }
    }
    [
        ("create", r(3, 0x500, 0x300, 0x800, 0)),
        ("create with a log", r(3, 0x500, 0x300, 0x800, LOG_DIRTY)),
        ("delete", r(0, 0, 0, 0, 0)),
        ("delete with a log", r(7, 0, 0, 0, 0)),
        ("move", r(0, 0x120, 0x300, 0x700, 0)),
        ("move and start a log", r(0, 0x120, 0x300, 0x700, LOG_DIRTY)),
        ("start a log", r(0, 0x100, 0x300, 0x700, LOG_DIRTY)),
        ("stop a log", r(7, 0x900, 0x10, 0x700, 0)),
    ]
};

/// Proves MS-4.
#[test]
#[cfg_attr(miri, ignore = "too many updates for Miri")]
fn an_update_that_runs_out_of_memory_leaves_every_slot_as_it_was() {
    for tracks in [false, true] {
        for (name, update) in UPDATES {
            let vm = vm(tracks);
            let before: Dump = vm.dump();
            let live = vm.host.live();
            let publishes_twice = name.starts_with("delete") || name.starts_with("move");
            let mut late = 0;
            let failures = vm.host.for_each_failing_alloc(|n| {
                let generation = vm.generation(SpaceId::NORMAL);
                let (result, events) = vm.events(update);
                if !vm.host.injection_fired() {
                    return assert_eq!(result, Ok(()), "{name}");
                }
                assert_eq!(result, Err(Error::NoMemory), "{name}, allocation {n}");
                assert_eq!(vm.dump(), before, "{name}, allocation {n}");
                assert_eq!(vm.host.live(), live, "{name}, allocation {n} leaks");
                let now = vm.generation(SpaceId::NORMAL);
                assert!(!now.in_progress());
                // A wrap may fall into any update.
                let zaps: Vec<_> = events
                    .iter()
                    .filter(|event| !matches!(event, Event::Wrapped(_)))
                    .collect();
                match zaps.as_slice() {
                    [] => assert_eq!(now, generation, "nothing was published"),
                    [Event::Zap(slot)] => {
                        assert!(publishes_twice);
                        assert!(slot.invalid);
                        assert_ne!(now, generation);
                        late += 1;
                    }
                    other => panic!("{name}, allocation {n}: {other:?}"),
                }
            });
            assert!(failures >= 4, "{name}: {failures}");
            assert_eq!(late > 0, publishes_twice, "{name}");
            assert_ne!(vm.dump(), before, "{name}");
            vm.finish();
        }
    }
}

/// Proves MS-4.
#[test]
fn a_vm_that_cannot_be_made_leaves_nothing() {
    let host = machine::<true>();
    let failures = host.for_each_failing_alloc(|_| {
        match Memslots::new(&host, GFN_END) {
            Ok(slots) => drop(slots),
            Err(error) => assert_eq!(error, Error::NoMemory),
        }
        host.assert_no_leaks();
    });
    // Two sets with their places, two locks, a read domain, a wait queue.
    assert_eq!(failures, 8);
}

/// Proves MS-4, MS-5.
#[test]
fn an_activation_that_runs_out_of_memory_can_be_tried_again() {
    let vm = vm(false);
    let before = vm.dump();
    let failures = vm.host.for_each_failing_alloc(|_| {
        let result = vm.slots.activate_track();
        if vm.host.injection_fired() {
            assert_eq!(result, Err(Error::NoMemory));
            assert_eq!(vm.dump(), before);
            // A slot that comes and goes meanwhile does no harm.
            vm.set(region(1, 5, 0x500, 8, 0x20, 0)).expect("create");
            vm.set(gone(1, 5)).expect("delete");
        } else {
            assert_eq!(result, Ok(()));
        }
    });
    assert!(failures >= 1);
    assert!(vm.slots.track_active());
    vm.finish();
}

/// Proves MS-4.
#[test]
fn nothing_leaks_whatever_is_left_when_a_vm_goes() {
    for tracks in [false, true] {
        vm(tracks).finish();
        let vm = vm(tracks);
        for (_, update) in UPDATES {
            // Some are refused by now.
            let _ = vm.set(update);
        }
        vm.finish();
    }
}
