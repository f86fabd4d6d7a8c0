//! Bells that are rung for writes.
use std::sync::atomic::Ordering::SeqCst;

use waterbear_core::Error;
use waterbear_core::abi::kvm::*;
use waterbear_core::abi::{Answer, Failure};
use waterbear_core::bus::table::MAX_LISTENERS;
use waterbear_core::emulate::Target;

use crate::support::{DONE, HERE, Monitor, refused};

const MATCH: u32 = KVM_IOEVENTFD_FLAG_DATAMATCH;
const PIO: u32 = KVM_IOEVENTFD_FLAG_PIO;
const DEASSIGN: u32 = KVM_IOEVENTFD_FLAG_DEASSIGN;

/// What an owner asks for.
#[derive(Clone, Copy)]
struct Asked {
    address: u64,
    length: u32,
    value: u64,
    flags: u32,
    descriptor: i32,
}

const PLAIN: Asked = Asked {
    address: 0x1000,
    length: 4,
    value: 0,
    flags: 0,
    descriptor: 3,
};

fn ask(owner: &Monitor, asked: Asked) -> Answer {
    let mut bytes = Vec::new();
    bytes.extend(asked.value.to_le_bytes());
    bytes.extend(asked.address.to_le_bytes());
    bytes.extend(asked.length.to_le_bytes());
    bytes.extend(asked.descriptor.to_le_bytes());
    bytes.extend(asked.flags.to_le_bytes());
    bytes.resize(size_of::<kvm_ioeventfd>(), 0);
    owner.put(0, &bytes);
    owner.vm(KVM_IOEVENTFD, HERE)
}

fn write(owner: &Monitor, target: Target, bytes: &[u8]) -> bool {
    owner.vm.vm().bus().write(target, bytes)
}

#[test]
fn a_bell_is_rung_for_its_length_and_its_value() {
    for (length, flags, value) in [
        (1, 0, 0),
        (2, 0, 0),
        (4, 0, 0),
        (8, 0, 0),
        (0, 0, 0),
        (1, MATCH, 0x55),
        (4, MATCH, 0x55),
        (8, MATCH, 0x55),
        (1, MATCH, 0x155),
    ] {
        let owner = Monitor::new();
        let rung = owner.host.open_bell(3);
        let asked = Asked {
            length,
            flags,
            value,
            ..PLAIN
        };
        assert_eq!(ask(&owner, asked), DONE);
        for written in [1_usize, 2, 4, 8] {
            for data in [0x55_u64, 0x56] {
                let fits = length == 0 || length as usize == written;
                let fits = fits && (flags == 0 || value == data);
                let bytes = &data.to_le_bytes()[..written];
                let before = rung.load(SeqCst);
                let taken = write(&owner, Target::Memory(0x1000), bytes);
                assert_eq!(taken, fits, "{length} {value:#x}: {written} {data:#x}");
                assert_eq!(rung.load(SeqCst) - before, fits.into());
            }
        }
        let rest = [0; 4];
        assert!(!write(&owner, Target::Memory(0xfff), &rest));
        assert!(!write(&owner, Target::Memory(0x1001), &rest));
        assert!(!write(&owner, Target::Port(0x1000), &rest));
    }
}

#[test]
fn ports_and_memory_are_apart() {
    let owner = Monitor::new();
    let (memory, port) = (owner.host.open_bell(3), owner.host.open_bell(4));
    assert_eq!(ask(&owner, PLAIN), DONE);
    let at_port = Asked {
        flags: PIO,
        descriptor: 4,
        ..PLAIN
    };
    assert_eq!(ask(&owner, at_port), DONE);
    assert!(write(&owner, Target::Port(0x1000), &[0; 4]));
    assert_eq!((memory.load(SeqCst), port.load(SeqCst)), (0, 1));
    assert!(write(&owner, Target::Memory(0x1000), &[0; 4]));
    assert_eq!((memory.load(SeqCst), port.load(SeqCst)), (1, 1));
}

#[test]
fn of_many_bells_the_right_one_is_rung() {
    let owner = Monitor::new();
    let bells: Vec<_> = (0..40).map(|n| owner.host.open_bell(n)).collect();
    for n in 0..20 {
        let asked = Asked {
            address: 0x1000 + 8 * (7 * n % 20),
            length: 2,
            flags: MATCH,
            ..PLAIN
        };
        let pair = [
            (n as i32, Asked { value: 1, ..asked }),
            (n as i32 + 20, Asked { value: 2, ..asked }),
        ];
        for (descriptor, asked) in pair {
            assert_eq!(
                ask(
                    &owner,
                    Asked {
                        descriptor,
                        ..asked
                    }
                ),
                DONE
            );
        }
    }
    for n in 0..20 {
        let at = Target::Memory(0x1000 + 8 * (7 * n % 20));
        assert!(write(&owner, at, &[1, 0]));
        assert!(write(&owner, at, &[2, 0]));
        assert!(!write(&owner, at, &[3, 0]));
    }
    assert!(bells.iter().all(|bell| bell.load(SeqCst) == 1));
}

#[test]
fn a_write_has_one_listener_at_most() {
    let matching = |value| Asked {
        flags: MATCH,
        value,
        ..PLAIN
    };
    let any_length = Asked { length: 0, ..PLAIN };
    for (first, second, wanted) in [
        (PLAIN, PLAIN, refused(Error::Exists)),
        (PLAIN, matching(1), refused(Error::Exists)),
        (matching(1), PLAIN, refused(Error::Exists)),
        (matching(1), matching(1), refused(Error::Exists)),
        (matching(1), any_length, refused(Error::Exists)),
        (any_length, PLAIN, refused(Error::Exists)),
        (matching(1), matching(2), DONE),
        (PLAIN, Asked { length: 2, ..PLAIN }, DONE),
        (
            PLAIN,
            Asked {
                flags: PIO,
                ..PLAIN
            },
            DONE,
        ),
    ] {
        let owner = Monitor::new();
        owner.host.open_bell(3);
        assert_eq!(ask(&owner, first), DONE);
        assert_eq!(ask(&owner, second), wanted);
        let references = if wanted == DONE { 2 } else { 1 };
        assert_eq!(owner.host.live().bells, references);
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let owner = Monitor::new();
    owner.host.open_bell(3);
    owner.host.open_other(4);
    for asked in [
        Asked { length: 3, ..PLAIN },
        Asked {
            length: 16,
            ..PLAIN
        },
        Asked {
            length: u32::MAX,
            ..PLAIN
        },
        Asked {
            length: 0x100,
            ..PLAIN
        },
        Asked {
            length: 0,
            flags: MATCH,
            ..PLAIN
        },
        Asked { flags: 8, ..PLAIN },
        Asked {
            flags: 1 << 31,
            ..PLAIN
        },
        Asked {
            address: u64::MAX - 3,
            ..PLAIN
        },
        Asked {
            address: 0x1_0000,
            flags: PIO,
            ..PLAIN
        },
        Asked {
            descriptor: 4,
            ..PLAIN
        },
    ] {
        assert_eq!(ask(&owner, asked), refused(Error::Invalid));
    }
    for descriptor in [-1, 99, i32::MIN] {
        let asked = Asked {
            descriptor,
            ..PLAIN
        };
        assert_eq!(ask(&owner, asked), refused(Error::NoDescriptor));
    }
    let nowhere = owner.vm(KVM_IOEVENTFD, 0x10);
    assert_eq!(nowhere, Err(Failure::Error(Error::Fault)));
    assert_eq!(owner.host.live().bells, 0);
}

#[test]
fn a_bell_that_is_taken_away_is_not_rung_and_not_kept() {
    let owner = Monitor::new();
    let rung = owner.host.open_bell(3);
    owner.host.open_bell(4);
    assert_eq!(ask(&owner, PLAIN), DONE);
    let away = Asked {
        flags: DEASSIGN,
        ..PLAIN
    };
    for other in [
        Asked { length: 2, ..away },
        Asked {
            address: 0x1008,
            ..away
        },
        Asked {
            flags: DEASSIGN | PIO,
            ..PLAIN
        },
        Asked {
            flags: DEASSIGN | MATCH,
            ..PLAIN
        },
        Asked {
            descriptor: 4,
            ..away
        },
    ] {
        assert_eq!(ask(&owner, other), refused(Error::NotFound));
    }
    assert!(write(&owner, Target::Memory(0x1000), &[0; 4]));
    assert_eq!(ask(&owner, away), DONE);
    assert_eq!(ask(&owner, away), refused(Error::NotFound));
    assert!(!write(&owner, Target::Memory(0x1000), &[0; 4]));
    assert_eq!(rung.load(SeqCst), 1);
    assert_eq!(owner.host.live().bells, 0);
}

#[test]
fn a_bell_outlives_its_descriptor_and_dies_with_the_vm() {
    let owner = Monitor::new();
    let rung = owner.host.open_bell(3);
    assert_eq!(ask(&owner, PLAIN), DONE);
    owner.host.close(3);
    assert!(write(&owner, Target::Memory(0x1000), &[0; 4]));
    assert_eq!(rung.load(SeqCst), 1);
    let host = owner.host.clone();
    drop(owner);
    host.assert_no_leaks();
}

#[test]
fn without_memory_nothing_changes() {
    let owner = Monitor::new();
    owner.host.open_bell(3);
    let other = Asked {
        address: 0x2000,
        ..PLAIN
    };
    let away = |asked: Asked| Asked {
        flags: DEASSIGN,
        ..asked
    };
    for step in [PLAIN, other, away(PLAIN), away(other)] {
        let mut nth = 1;
        loop {
            let before = owner.host.live();
            owner.host.fail_nth_alloc(nth);
            let answer = ask(&owner, step);
            if !owner.host.injection_fired() {
                assert_eq!(answer, DONE);
                break;
            }
            assert_eq!(answer, refused(Error::NoMemory));
            assert_eq!(owner.host.live(), before);
            nth += 1;
        }
        assert!(nth > 2, "{nth}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of copies of a table")]
fn there_is_an_end_to_them() {
    let owner = Monitor::new();
    owner.host.open_bell(3);
    let at = |n: usize| Asked {
        address: 8 * n as u64,
        ..PLAIN
    };
    for n in 0..MAX_LISTENERS {
        assert_eq!(ask(&owner, at(n)), DONE);
    }
    assert_eq!(ask(&owner, at(MAX_LISTENERS)), refused(Error::Full));
    assert!(write(&owner, Target::Memory(800), &[0; 4]));
}

#[test]
fn bells_come_and_go_while_the_guest_rings() {
    let rounds = if cfg!(miri) { 10 } else { 300 };
    let owner = Monitor::new();
    let rung = owner.host.open_bell(3);
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            owner.host.run_on(1, || {
                let write = || write(&owner, Target::Memory(0x1000), &[0; 4]);
                (0..rounds).filter(|_| write()).count()
            })
        });
        for _ in 0..rounds {
            assert_eq!(ask(&owner, PLAIN), DONE);
            let away = Asked {
                flags: DEASSIGN,
                ..PLAIN
            };
            assert_eq!(ask(&owner, away), DONE);
        }
        let taken = guest.join().expect("no panic");
        assert_eq!(rung.load(SeqCst), taken as u64);
    });
    assert_eq!(owner.host.live().bells, 0);
}
