//! Writes that wait in a page of the owner's.
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use waterbear_core::Error;
use waterbear_core::abi::kvm::*;
use waterbear_core::abi::{Answer, Reply};
use waterbear_core::bus::log::LENGTH;
use waterbear_core::bus::table::MAX_ZONES;
use waterbear_core::emulate::Target;
use waterbear_hal::Memory;

use crate::support::{DONE, HERE, Monitor, refused};

fn ask(owner: &Monitor, command: u32, start: u64, size: u32, is_port: u32) -> Answer {
    let mut bytes = Vec::new();
    bytes.extend(start.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(is_port.to_le_bytes());
    owner.put(0, &bytes);
    owner.vm(command, HERE)
}

fn add(owner: &Monitor, start: u64, size: u32, is_port: u32) -> Answer {
    ask(owner, KVM_REGISTER_COALESCED_MMIO, start, size, is_port)
}

fn remove(owner: &Monitor, start: u64, size: u32, is_port: u32) -> Answer {
    ask(owner, KVM_UNREGISTER_COALESCED_MMIO, start, size, is_port)
}

fn write(owner: &Monitor, target: Target, bytes: &[u8]) -> bool {
    owner.vm.vm().bus().write(target, bytes)
}

/// The page as the owner maps it.
fn page(owner: &Monitor) -> &[AtomicU32; 1024] {
    // SAFETY: the page is there as long as the VM.
    let start = unsafe { owner.host.pages(owner.vm.vm().bus().page()) };
    // SAFETY: aligned, and nobody uses it but as atomics.
    unsafe { start.cast().as_ref() }
}

/// The words of a record.
fn record(owner: &Monitor, number: usize) -> [u32; 6] {
    std::array::from_fn(|word| page(owner)[2 + 6 * number + word].load(SeqCst))
}

fn counters(owner: &Monitor) -> (u32, u32) {
    let page = page(owner);
    (page[0].load(SeqCst), page[1].load(SeqCst))
}

#[test]
fn the_capability_says_where_the_page_is() {
    let owner = Monitor::new();
    for (capability, value) in [(KVM_CAP_COALESCED_MMIO, 2), (KVM_CAP_COALESCED_PIO, 1)] {
        let answer = owner.vm(KVM_CHECK_EXTENSION, capability.into());
        assert_eq!(answer, Ok(Reply::Value(value)));
    }
}

#[test]
fn a_write_waits_in_the_page_as_it_was_made() {
    let owner = Monitor::new();
    assert_eq!(add(&owner, 0x1_2345_6000, 0x1000, 0), DONE);
    assert_eq!(add(&owner, 0x3f8, 8, 1), DONE);
    let data = 0x8877_6655_4433_2211_u64.to_le_bytes();
    assert!(write(&owner, Target::Memory(0x1_2345_6ff8), &data));
    assert!(write(&owner, Target::Port(0x3ff), &[0x5a]));
    assert_eq!(counters(&owner), (0, 2));
    assert_eq!(
        record(&owner, 0),
        [0x2345_6ff8, 1, 8, 0, 0x4433_2211, 0x8877_6655]
    );
    assert_eq!(record(&owner, 1), [0x3ff, 0, 1, 1, 0x5a, 0]);
}

#[test]
fn only_what_lies_in_one_zone_waits() {
    let owner = Monitor::new();
    assert_eq!(add(&owner, 0x1000, 8, 0), DONE);
    assert_eq!(add(&owner, 0x1008, 8, 0), DONE);
    assert_eq!(add(&owner, 0x2000, 0, 0), DONE);
    assert_eq!(add(&owner, u64::MAX - 7, 0x1000, 0), DONE);
    for (address, size, waits) in [
        (0x1000, 8, true),
        (0x1007, 1, true),
        (0x1007, 2, false),
        (0xfff, 1, false),
        (0xffc, 8, false),
        (0x1010, 1, false),
        (0x2000, 1, false),
        (u64::MAX - 7, 8, true),
        (0, 1, false),
    ] {
        let bytes = &[0; 8][..size];
        let taken = write(&owner, Target::Memory(address), bytes);
        assert_eq!(taken, waits, "{address:#x}, {size}");
    }
    assert!(!write(&owner, Target::Port(0x1000), &[0]));
}

#[test]
fn a_full_page_takes_no_more_until_the_owner_has_looked() {
    let owner = Monitor::new();
    assert_eq!(add(&owner, 0x1000, 8, 0), DONE);
    for n in 0..LENGTH - 1 {
        assert!(write(&owner, Target::Memory(0x1000), &n.to_le_bytes()));
    }
    assert!(!write(&owner, Target::Memory(0x1000), &[0; 4]));
    assert_eq!(counters(&owner), (0, LENGTH - 1));
    assert_eq!(record(&owner, LENGTH as usize - 2)[4], LENGTH - 2);
    page(&owner)[0].store(1, SeqCst);
    assert!(write(&owner, Target::Memory(0x1000), &[7]));
    assert_eq!(counters(&owner), (1, 0), "round the end");
    assert_eq!(record(&owner, LENGTH as usize - 1)[4], 7);
    assert!(!write(&owner, Target::Memory(0x1000), &[0; 4]));
}

#[test]
fn counters_that_the_owner_makes_up_harm_nobody() {
    let owner = Monitor::new();
    assert_eq!(add(&owner, 0x1000, 8, 0), DONE);
    let page = page(&owner);
    for last in [LENGTH, LENGTH + 1, 1023, 0x8000_0000, u32::MAX] {
        page[1].store(last, SeqCst);
        assert!(!write(&owner, Target::Memory(0x1000), &[1]), "{last:#x}");
        assert_eq!(counters(&owner), (0, last), "not touched");
    }
    page[1].store(0, SeqCst);
    for first in [LENGTH, 1023, 0x8000_0000, u32::MAX] {
        page[0].store(first, SeqCst);
        assert!(!write(&owner, Target::Memory(0x1000), &[1]), "{first:#x}");
    }
    assert!(page[2..].iter().all(|word| word.load(SeqCst) == 0));
    // Any pair that could be true is taken for it.
    for (first, last) in [(5, 3), (0, LENGTH - 2), (LENGTH - 1, 4)] {
        page[0].store(first, SeqCst);
        page[1].store(last, SeqCst);
        assert!(write(&owner, Target::Memory(0x1000), &[1]));
        assert_eq!(counters(&owner), (first, last + 1));
    }
}

#[test]
fn zones_go_when_all_of_a_range_is_in_them() {
    let owner = Monitor::new();
    assert_eq!(add(&owner, 0x1000, 0x100, 0), DONE);
    assert_eq!(add(&owner, 0x1000, 0x100, 0), DONE, "twice is no fault");
    assert_eq!(add(&owner, 0x1000, 0x100, 1), DONE);
    assert_eq!(add(&owner, 0x1040, 0x10, 0), DONE);
    let waits = |target| write(&owner, target, &[0]);
    assert_eq!(remove(&owner, 0x1000, 0x101, 0), DONE, "none is so large");
    assert_eq!(remove(&owner, 0x9000, 1, 0), DONE, "there is none");
    assert!(waits(Target::Memory(0x1000)));
    assert_eq!(remove(&owner, 0x1000, 0x100, 0), DONE);
    assert!(!waits(Target::Memory(0x1000)));
    assert!(waits(Target::Memory(0x1040)));
    assert!(waits(Target::Port(0x1000)));
    assert_eq!(remove(&owner, 0x1044, 4, 0), DONE, "part of it is enough");
    assert!(!waits(Target::Memory(0x1040)));
    assert_eq!(remove(&owner, 0x1000, 0x100, 1), DONE);
    assert!(!waits(Target::Port(0x1000)));
}

#[test]
fn what_is_wrong_is_refused() {
    let owner = Monitor::new();
    for is_port in [2, 3, u32::MAX] {
        assert_eq!(add(&owner, 0, 8, is_port), refused(Error::Invalid));
        assert_eq!(remove(&owner, 0, 8, is_port), refused(Error::Invalid));
    }
    assert_eq!(add(&owner, 0x1_0000, 8, 1), refused(Error::Invalid));
    for command in [KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO] {
        let answer = owner.vm(command, u64::MAX);
        assert_eq!(answer, refused(Error::Fault));
    }
}

#[test]
#[cfg_attr(miri, ignore = "a thousand copies of a table")]
fn there_is_an_end_to_them() {
    let owner = Monitor::new();
    for n in 0..MAX_ZONES as u64 {
        assert_eq!(add(&owner, n, 1, 0), DONE);
    }
    assert_eq!(add(&owner, 0, 1, 0), refused(Error::Full));
    assert_eq!(remove(&owner, 0, 1, 0), DONE);
    assert_eq!(add(&owner, 0, 1, 0), DONE);
}

#[test]
fn without_memory_nothing_changes() {
    let owner = Monitor::new();
    type Step = fn(&Monitor) -> Answer;
    let steps: [Step; 2] = [
        |owner| add(owner, 0x1000, 8, 0),
        |owner| remove(owner, 0x1000, 8, 0),
    ];
    for step in steps {
        let mut nth = 1;
        loop {
            let before = owner.host.live();
            owner.host.fail_nth_alloc(nth);
            let answer = step(&owner);
            if !owner.host.injection_fired() {
                assert_eq!(answer, DONE);
                break;
            }
            assert_eq!(answer, refused(Error::NoMemory));
            assert_eq!(owner.host.live(), before);
            nth += 1;
        }
        assert!(nth > 1);
    }
}

#[test]
fn vcpus_that_write_at_once_lose_nothing() {
    let rounds = if cfg!(miri) { 5 } else { 40 };
    let owner = Monitor::new();
    assert_eq!(add(&owner, 0x1000, 8, 0), DONE);
    std::thread::scope(|scope| {
        for cpu in 0..4_u32 {
            let owner = &owner;
            scope.spawn(move || {
                owner.host.run_on(cpu, || {
                    for n in 0..rounds {
                        let data = (cpu << 16 | n).to_le_bytes();
                        assert!(write(owner, Target::Memory(0x1000), &data));
                    }
                });
            });
        }
    });
    let (first, last) = counters(&owner);
    assert_eq!((first, last), (0, 4 * rounds));
    let mut next = [0; 4];
    for number in 0..last as usize {
        let data = record(&owner, number)[4];
        let next = &mut next[(data >> 16) as usize];
        assert_eq!(data & 0xffff, *next, "in the order of each vCPU");
        *next += 1;
    }
}
