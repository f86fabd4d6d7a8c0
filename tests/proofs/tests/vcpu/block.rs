//! Halted vCPUs: sleeping and being woken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use waterbear_core::Error;
use waterbear_core::request::Request;
use waterbear_core::vcpu::Vcpus;
use waterbear_mock::MockHost;

/// A VM with one vCPU, which sleeps until `runnable`.
struct Halted {
    host: MockHost,
    vcpus: Vcpus<MockHost>,
    runnable: AtomicBool,
    /// How often the vCPU asked whether it is runnable.
    asked: AtomicU64,
}

impl Halted {
    fn new() -> Self {
        let host = MockHost::new();
        let vcpus = Vcpus::new(&host);
        vcpus.add(0).expect("memory");
        Self {
            host,
            vcpus,
            runnable: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        }
    }

    fn vcpu(&self) -> &waterbear_core::vcpu::Vcpu<MockHost> {
        self.vcpus.get(0).expect("it was added")
    }

    fn block(&self) -> Result<(), Error> {
        self.vcpu().block(|| {
            self.asked.fetch_add(1, SeqCst);
            self.runnable.load(SeqCst)
        })
    }

    /// Lets the vCPU sleep, then runs `wake`, then waits for the vCPU.
    fn halt(
        &self,
        wake: impl FnOnce(&ScopedJoinHandle<'_, Result<(), Error>>),
    ) -> Result<(), Error> {
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| self.block());
            while self.host.sleepers() == 0 {
                thread::yield_now();
            }
            wake(&sleeper);
            sleeper.join().expect("the sleeper panicked")
        })
    }

    /// Waits until the sleeper has asked once more, and sleeps again.
    fn asks_again(&self, before: u64) {
        while self.asked.load(SeqCst) == before || self.host.sleepers() == 0 {
            thread::yield_now();
        }
    }
}

/// Proves KR-8.
#[test]
fn a_runnable_vcpu_does_not_sleep() {
    let halted = Halted::new();
    halted.runnable.store(true, SeqCst);
    assert_eq!(halted.block(), Ok(()));
    assert_eq!(halted.asked.load(SeqCst), 1);
}

/// Proves KR-2, KR-8.
#[test]
fn an_event_wakes_a_vcpu_that_it_makes_runnable() {
    let halted = Halted::new();
    let result = halted.halt(|_| {
        halted.runnable.store(true, SeqCst);
        halted.vcpu().make_request(Request::EVENT);
    });
    assert_eq!(result, Ok(()));
    assert_eq!(halted.host.kick_calls(), 0, "woken, so not interrupted");
}

/// Proves KR-8.
#[test]
fn a_wake_that_makes_nothing_runnable_is_slept_through() {
    let halted = Halted::new();
    let result = halted.halt(|sleeper| {
        for round in 0..10 {
            let before = halted.asked.load(SeqCst);
            if round % 2 == 0 {
                assert!(halted.vcpu().wake(), "somebody slept");
            } else {
                halted.vcpu().make_request(Request::EVENT);
            }
            halted.asks_again(before);
            assert!(!sleeper.is_finished());
        }
        halted.runnable.store(true, SeqCst);
        halted.vcpu().wake();
    });
    assert_eq!(result, Ok(()));
}

/// Proves KR-4, KR-5.
#[test]
fn a_flush_neither_wakes_nor_waits_for_a_sleeper() {
    let halted = Halted::new();
    let result = halted.halt(|sleeper| {
        let before = halted.asked.load(SeqCst);
        for request in [
            Request::TLB_FLUSH,
            Request::MMU_RELOAD,
            Request::OUTSIDE_GUEST_MODE,
        ] {
            halted.vcpu().make_request(request);
            halted.vcpus.make_request_all(request);
            // Long enough for whoever was woken to ask.
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(halted.asked.load(SeqCst), before);
        assert_eq!(halted.host.sleepers(), 1);
        assert!(!sleeper.is_finished());
        halted.vcpu().make_request(Request::UNBLOCK);
    });
    assert_eq!(result, Ok(()));
    assert_eq!(halted.host.kick_calls(), 0);
    assert!(halted.vcpu().requests().test(Request::TLB_FLUSH));
}

/// Proves KR-8.
#[test]
fn an_unblock_request_ends_one_sleep() {
    let halted = Halted::new();
    assert_eq!(
        halted.halt(|_| halted.vcpu().make_request(Request::UNBLOCK)),
        Ok(())
    );
    assert!(!halted.vcpu().requests().test(Request::UNBLOCK));
    // The next sleep is not ended by it.
    let result = halted.halt(|sleeper| {
        assert!(!sleeper.is_finished());
        assert!(halted.vcpus.make_request(0, Request::UNBLOCK).is_ok());
    });
    assert_eq!(result, Ok(()));
}

/// Proves KR-8.
#[test]
fn an_unblock_request_before_the_sleep_is_not_lost() {
    let halted = Halted::new();
    halted.vcpu().make_request(Request::UNBLOCK);
    assert_eq!(halted.block(), Ok(()));
    assert_eq!(halted.asked.load(SeqCst), 0);
}

/// Proves KR-8.
#[test]
fn a_signal_ends_a_sleep() {
    let halted = Halted::new();
    let result = halted.halt(|_| halted.host.interrupt_sleepers());
    assert_eq!(result, Err(Error::Interrupted));
}

/// Proves KR-6.
#[test]
fn a_death_ends_every_sleep() {
    let halted = Halted::new();
    let result = halted.halt(|_| {
        halted.vcpus.make_request_all(Request::VM_DEAD);
    });
    assert_eq!(result, Err(Error::Dead));
    assert_eq!(halted.block(), Err(Error::Dead), "and no new one begins");
}

/// Proves KR-2.
#[test]
fn waking_a_vcpu_that_does_not_sleep_says_so() {
    let halted = Halted::new();
    assert!(!halted.vcpu().wake());
}

/// Proves KR-2, KR-8.
#[test]
fn no_wake_is_lost() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 3_000 };
    let halted = Halted::new();
    let posted = AtomicU64::new(0);
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                // A lost wake is a deadlock here.
                let ready = || posted.load(SeqCst) >= round;
                halted.vcpu().block(ready).unwrap();
                taken.store(round, SeqCst);
                let _ = halted.vcpu().requests().check(Request::EVENT);
            }
        });
        for round in 1..=ROUNDS {
            posted.store(round, SeqCst);
            halted.vcpus.make_request_all(Request::EVENT);
            while round % 3 == 0 && taken.load(SeqCst) < round {
                thread::yield_now();
            }
        }
    });
}
