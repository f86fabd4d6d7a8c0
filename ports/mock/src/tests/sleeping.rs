//! Wait queues and the log.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use waterbear_hal::{Cpu, Log, Memory, WaitQueue, Word};

use crate::MockHost;

#[test]
fn a_sleeper_wakes_when_its_condition_holds() {
    let host = MockHost::new();
    let queue = host.new_wait_queue().unwrap();
    let ready = AtomicBool::new(false);
    assert!(!queue.wake());
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| queue.wait(false, || ready.load(SeqCst)));
        while host.sleepers() == 0 {
            std::thread::yield_now();
        }
        assert!(queue.wake());
        ready.store(true, SeqCst);
        queue.wake();
        assert!(sleeper.join().unwrap());
    });
    assert_eq!(queue.sleepers(), 0);
}

#[test]
fn a_signal_ends_an_interruptible_wait_only() {
    let host = MockHost::new();
    let queue = host.new_wait_queue().unwrap();
    host.interrupt_sleepers();
    assert!(queue.wait(false, || true));
    assert!(!queue.wait(true, || false));
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| queue.wait(true, || false));
        while host.sleepers() == 0 {
            std::thread::yield_now();
        }
        queue.interrupt();
        assert!(!sleeper.join().unwrap());
    });
}

#[test]
#[should_panic(expected = "alloc_table may sleep, but this thread is in the condition of a wait")]
fn the_condition_of_a_wait_does_not_sleep() {
    let host = MockHost::new();
    let queue = host.new_wait_queue().unwrap();
    queue.wait(false, || host.alloc_table().is_ok());
}

#[test]
fn the_log_is_kept() {
    let host = MockHost::new();
    host.info(&[Word::Text("CPU "), Word::Number(3), Word::Text(" is slow")]);
    assert_eq!(host.log_lines(), ["CPU 3 is slow"]);
}

#[test]
#[should_panic(expected = "BUG: a count is negative")]
fn a_bug_is_a_panic() {
    MockHost::new().bug("a count is negative");
}
