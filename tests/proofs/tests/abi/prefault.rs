//! Memory that is mapped before the guest asks.
use waterbear_core::Error;
use waterbear_core::abi::Answer;
use waterbear_core::abi::prefault::KVM_PRE_FAULT_MEMORY;

use crate::support::{DONE, HERE, Monitor, PAGES, refused};

const PAGE: u64 = 4096;
const END: u64 = PAGES * PAGE;

/// Asks for a range.
fn ask(monitor: &Monitor, gpa: u64, size: u64, flags: u64) -> Answer {
    let words = [gpa, size, flags, 0, 0, 0, 0, 0];
    monitor.put(0, &words.map(u64::to_le_bytes).concat());
    monitor.vcpu(KVM_PRE_FAULT_MEMORY, HERE)
}

/// What is left of the range.
fn left(monitor: &Monitor) -> (u64, u64) {
    (monitor.word(0), monitor.word(8))
}

#[test]
fn a_range_is_mapped_and_nothing_is_left_of_it() {
    let monitor = Monitor::new();
    assert_eq!(ask(&monitor, 3 * PAGE, 5 * PAGE, 0), DONE);
    assert_eq!(left(&monitor), (8 * PAGE, 0));
    assert_eq!(monitor.mapped(), 5);
    // Again, and more of it.
    assert_eq!(ask(&monitor, 0, END, 0), DONE);
    assert_eq!(left(&monitor), (END, 0));
    assert_eq!(monitor.mapped(), PAGES);
}

#[test]
fn what_is_behind_the_memory_is_left() {
    let monitor = Monitor::new();
    assert_eq!(ask(&monitor, END - 2 * PAGE, 5 * PAGE, 0), DONE);
    assert_eq!(left(&monitor), (END, 3 * PAGE));
    // The rest of it is nowhere.
    let answer = monitor.vcpu(KVM_PRE_FAULT_MEMORY, HERE);
    assert_eq!(answer, refused(Error::NotFound));
    assert_eq!(left(&monitor), (END, 3 * PAGE));
}

#[test]
fn a_signal_ends_it_and_what_is_done_is_told() {
    let monitor = Monitor::new();
    monitor.host.set_signal(true);
    let answer = ask(&monitor, 0, END, 0);
    assert_eq!(answer, refused(Error::Interrupted));
    assert_eq!(left(&monitor), (0, END));
    monitor.host.set_signal(false);
    let host = monitor.host.clone();
    monitor.user.before_resolve(move |_| host.set_signal(true));
    assert_eq!(ask(&monitor, 0, END, 0), DONE);
    assert_eq!(left(&monitor), (PAGE, END - PAGE));
}

#[test]
fn wrong_ranges_are_refused() {
    let monitor = Monitor::new();
    for (gpa, size, flags) in [
        (1, PAGE, 0),
        (0, 1, 0),
        (0, 0, 0),
        (PAGE, 0, 0),
        (0, PAGE, 1),
        (0, PAGE, 1 << 63),
        (PAGE, u64::MAX - PAGE + 1, 0),
        (u64::MAX - PAGE + 1, 2 * PAGE, 0),
    ] {
        let answer = ask(&monitor, gpa, size, flags);
        assert_eq!(answer, refused(Error::Invalid), "{gpa:#x} {size:#x}");
        assert_eq!(left(&monitor), (gpa, size));
    }
    for at in [0, 8, HERE - 8, HERE + 0xffc8, u64::MAX - 8] {
        let answer = monitor.vcpu(KVM_PRE_FAULT_MEMORY, at);
        assert_eq!(answer, refused(Error::Fault), "{at:#x}");
    }
    let far = ask(&monitor, 1 << 60, PAGE, 0);
    assert_eq!(far, refused(Error::NotFound));
    assert_eq!(monitor.mapped(), 0);
}

#[test]
fn memory_that_the_owner_has_not_is_an_error() {
    let monitor = Monitor::new();
    monitor.unmap(7);
    assert_eq!(ask(&monitor, 5 * PAGE, 4 * PAGE, 0), DONE);
    assert_eq!(left(&monitor), (7 * PAGE, 2 * PAGE));
    let answer = monitor.vcpu(KVM_PRE_FAULT_MEMORY, HERE);
    assert_eq!(answer, refused(Error::Fault));
}
