//! Requests that wait until the vCPU is outside.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use waterbear_core::request::Request;
use waterbear_core::vcpu::{Mode, Vcpu};
use waterbear_hal::{IrqOff, Pinned};
use waterbear_mock::MockHost;
use waterbear_proofs::vcpu_thread::{enter, settle};

fn vcpu(host: &MockHost) -> Vcpu<MockHost> {
    let vcpu = Vcpu::new(host, 0).expect("memory");
    settle(host, &vcpu, 1);
    vcpu
}

/// Proves KR-4.
#[test]
fn a_request_that_waits_returns_when_the_vcpu_has_left_the_guest() {
    const ROUNDS: u64 = if cfg!(miri) { 10 } else { 1_000 };
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let visit = AtomicU64::new(0); // odd: in the guest
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                while !done.load(SeqCst) {
                    vcpu.check_requests(|_| Ok(())).unwrap();
                    enter(&host, &vcpu, || {
                        visit.fetch_add(1, SeqCst);
                        while !host.interrupt_pending() && !done.load(SeqCst) {
                            thread::yield_now();
                        }
                        visit.fetch_add(1, SeqCst);
                    });
                }
            })
        });
        for round in 0..ROUNDS {
            let before = visit.load(SeqCst);
            vcpu.make_request(if round % 2 == 0 {
                Request::TLB_FLUSH
            } else {
                Request::OUTSIDE_GUEST_MODE
            });
            let after = visit.load(SeqCst);
            assert!(
                before.is_multiple_of(2) || before != after,
                "it has not left"
            );
        }
        done.store(true, SeqCst);
    });
}

/// Proves KR-4.
#[test]
fn a_request_that_waits_waits_for_a_reader_of_page_tables() {
    const ROUNDS: u64 = if cfg!(miri) { 10 } else { 1_000 };
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let visit = AtomicU64::new(0); // odd: reading
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                while !done.load(SeqCst) {
                    let pinned = Pinned::new(&host);
                    vcpu.load(&pinned).reading_page_tables(|_| {
                        assert_eq!(vcpu.mode(), Mode::ReadingPageTables);
                        visit.fetch_add(1, SeqCst);
                        thread::yield_now();
                        visit.fetch_add(1, SeqCst);
                    });
                }
            })
        });
        for _ in 0..ROUNDS {
            let before = visit.load(SeqCst);
            vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
            let after = visit.load(SeqCst);
            assert!(
                before.is_multiple_of(2) || before != after,
                "it still reads"
            );
        }
        done.store(true, SeqCst);
    });
}

/// Proves KR-4.
#[test]
fn a_plain_request_neither_waits_for_nor_interrupts_a_reader() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    host.run_on(1, || {
        let pinned = Pinned::new(&host);
        vcpu.load(&pinned).reading_page_tables(|_| {
            thread::scope(|scope| {
                scope.spawn(|| vcpu.make_request(Request::EVENT));
            });
        });
    });
    assert_eq!(host.kick_calls(), 0);
}

/// Proves KR-4.
#[test]
fn waiting_with_interrupts_off_is_refused_by_the_mock() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let running = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                enter(&host, &vcpu, || {
                    running.store(true, SeqCst);
                    host.wait_for_interrupt();
                })
            })
        });
        while !running.load(SeqCst) {
            thread::yield_now();
        }
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _off = IrqOff::new(&host);
            vcpu.make_request(Request::TLB_FLUSH);
        }));
        // Let the guest go before anything else can fail.
        vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
        assert!(result.is_err());
    });
}

/// Proves KR-2, KR-4.
#[test]
fn a_request_that_waits_is_not_content_with_an_interrupt_on_its_way() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let running = AtomicBool::new(false);
    let may_leave = AtomicBool::new(false);
    let left = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                enter(&host, &vcpu, || {
                    running.store(true, SeqCst);
                    while !may_leave.load(SeqCst) {
                        thread::yield_now();
                    }
                    left.store(true, SeqCst);
                })
            })
        });
        while !running.load(SeqCst) {
            thread::yield_now();
        }
        vcpu.make_request(Request::EVENT);
        let waits = scope.spawn(|| {
            vcpu.make_request(Request::TLB_FLUSH);
            left.load(SeqCst)
        });
        while host.interrupts_sent(1) < 2 && !waits.is_finished() {
            thread::yield_now();
        }
        may_leave.store(true, SeqCst);
        assert!(waits.join().expect("no panic"), "it returned too early");
    });
}
