//! One vCPU: entering the guest, and being kicked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use waterbear_core::Error;
use waterbear_core::request::Request;
use waterbear_core::vcpu::{Mode, Vcpu};
use waterbear_hal::Cpu;
use waterbear_mock::MockHost;
use waterbear_proofs::vcpu_thread::{enter, settle};

fn vcpu(host: &MockHost) -> Vcpu<MockHost> {
    let vcpu = Vcpu::new(host, 0).expect("memory");
    settle(host, &vcpu, 1);
    vcpu
}

/// Runs a guest on CPU 1 that leaves only when it is interrupted, and
/// `outside` on CPU 0 once the guest runs.
fn while_in_guest(host: &MockHost, vcpu: &Vcpu<MockHost>, outside: impl FnOnce()) {
    let running = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                enter(host, vcpu, || {
                    running.store(true, SeqCst);
                    host.wait_for_interrupt();
                })
                .expect("a request was pending")
            })
        });
        while !running.load(SeqCst) {
            thread::yield_now();
        }
        outside();
    });
    assert_eq!(vcpu.mode(), Mode::Outside);
}

/// Proves KR-1.
#[test]
fn a_vcpu_with_a_pending_request_does_not_enter() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    host.run_on(1, || {
        for request in Request::ALL {
            if request == Request::VM_DEAD {
                continue;
            }
            vcpu.make_request(request);
            assert_eq!(enter(&host, &vcpu, || ()), None);
            assert_eq!(vcpu.mode(), Mode::Outside);
            let mut seen = Vec::new();
            vcpu.check_requests(|request| {
                seen.push(request);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, [request]);
            assert_eq!(enter(&host, &vcpu, || vcpu.mode()), Some(Mode::InGuest));
        }
    });
    assert_eq!(host.kick_calls(), 0);
}

/// Proves KR-1.
#[test]
fn the_guest_runs_with_interrupts_off_and_they_are_on_afterwards() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    host.run_on(1, || {
        let off = enter(&host, &vcpu, || !host.irq_disable());
        assert_eq!(off, Some(true));
        let were_on = host.irq_disable();
        assert!(were_on);
        // SAFETY: pairs with the line before.
        unsafe { host.irq_restore(were_on) };
    });
}

/// Proves KR-1, KR-2.
#[test]
fn a_guest_that_panics_leaves_no_vcpu_in_guest_mode() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let result = catch_unwind(AssertUnwindSafe(|| {
        host.run_on(1, || enter(&host, &vcpu, || panic!("on purpose")))
    }));
    assert!(result.is_err());
    assert_eq!(vcpu.mode(), Mode::Outside);
}

/// Proves KR-2.
#[test]
fn a_vcpu_outside_is_not_interrupted() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    Request::ALL
        .iter()
        .for_each(|&request| vcpu.make_request(request));
    vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
    assert_eq!(host.kick_calls(), 0);
}

/// Proves KR-2, KR-7.
#[test]
fn a_request_interrupts_a_vcpu_in_the_guest() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    while_in_guest(&host, &vcpu, || {
        assert_eq!(vcpu.mode(), Mode::InGuest);
        vcpu.make_request(Request::EVENT);
    });
    assert_eq!(host.interrupts_sent(1), 1);
    assert!(vcpu.requests().test(Request::EVENT));
}

/// Proves KR-2.
#[test]
fn the_second_sender_finds_the_interrupt_on_its_way() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let running = AtomicBool::new(false);
    let may_leave = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                enter(&host, &vcpu, || {
                    running.store(true, SeqCst);
                    while !may_leave.load(SeqCst) {
                        thread::yield_now();
                    }
                })
            })
        });
        while !running.load(SeqCst) {
            thread::yield_now();
        }
        vcpu.make_request(Request::EVENT);
        assert_eq!(vcpu.mode(), Mode::ExitingGuest);
        vcpu.make_request(Request::UNBLOCK);
        vcpu.make_request(Request::EVENT);
        assert_eq!(host.interrupts_sent(1), 1);
        may_leave.store(true, SeqCst);
    });
}

/// Proves KR-5.
#[test]
fn a_request_without_action_only_interrupts() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    while_in_guest(&host, &vcpu, || {
        vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
        assert_ne!(vcpu.mode(), Mode::InGuest);
    });
    assert_eq!(host.interrupts_sent(1), 1);
    assert!(!vcpu.requests().any());
}

/// Proves KR-3.
#[test]
fn a_sender_does_not_interrupt_its_own_cpu() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    host.run_on(1, || {
        // The guest's own exit handler, with interrupts off: waiting for this
        // CPU would be waiting for itself.
        enter(&host, &vcpu, || {
            vcpu.make_request(Request::OUTSIDE_GUEST_MODE)
        })
        .unwrap();
    });
    assert_eq!(host.kick_calls(), 0);
    assert_eq!(vcpu.mode(), Mode::Outside);
}

/// Proves KR-3, BUG-15.
#[test]
fn a_vcpu_that_comes_and_goes_is_kicked_where_it_is_or_not_at_all() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 3_000 };
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                host.run_on(1 + (round % 3) as u32, || {
                    vcpu.check_requests(|_| Ok(())).unwrap();
                    enter(&host, &vcpu, thread::yield_now);
                });
            }
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) {
            vcpu.make_request(Request::TLB_FLUSH);
            vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
            vcpu.make_request(Request::EVENT);
        }
    });
    assert_eq!(host.interrupts_sent(0), 0, "nothing ever ran on CPU 0");
}

/// Proves KR-1, BUG-14.
#[test]
fn a_request_just_after_the_last_check_is_not_lost() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 3_000 };
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                while taken.load(SeqCst) < ROUNDS {
                    vcpu.check_requests(|request| {
                        assert_eq!(request, Request::EVENT);
                        taken.fetch_add(1, SeqCst);
                        Ok(())
                    })
                    .unwrap();
                    if taken.load(SeqCst) < ROUNDS {
                        // A lost request is a deadlock here.
                        enter(&host, &vcpu, || host.wait_for_interrupt());
                    }
                }
            })
        });
        for round in 0..ROUNDS {
            vcpu.make_request(Request::EVENT);
            while taken.load(SeqCst) == round {
                thread::yield_now();
            }
        }
    });
    assert_eq!(taken.load(SeqCst), ROUNDS);
}

/// Proves KR-1.
#[test]
fn a_vcpu_that_comes_to_another_cpu_flushes_there() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    for (cpu, flushes) in [(1, false), (2, true), (2, false), (1, true)] {
        host.run_on(cpu, || {
            let entered = enter(&host, &vcpu, || ()).is_some();
            assert_eq!(entered, !flushes, "on CPU {cpu}");
            assert_eq!(vcpu.requests().check(Request::TLB_FLUSH), flushes);
        });
    }
}

/// Proves KR-6.
#[test]
fn a_request_that_cannot_be_handled_stays_pending() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    vcpu.make_request(Request::MMU_RELOAD);
    vcpu.make_request(Request::EVENT);
    let mut seen = Vec::new();
    let result = vcpu.check_requests(|request| {
        seen.push(request);
        Err(Error::NoMemory)
    });
    assert_eq!(result, Err(Error::NoMemory));
    assert_eq!(seen, [Request::MMU_RELOAD]);
    assert!(vcpu.requests().test(Request::MMU_RELOAD));
    assert!(vcpu.requests().test(Request::EVENT));
}

/// Proves KR-6.
#[test]
fn a_dead_vcpu_takes_nothing_up() {
    let host = MockHost::new();
    let vcpu = vcpu(&host);
    vcpu.make_request(Request::TLB_FLUSH);
    vcpu.make_request(Request::VM_DEAD);
    for _ in 0..2 {
        let result = vcpu.check_requests(|request| panic!("{request:?} was taken up"));
        assert_eq!(result, Err(Error::Dead));
    }
    host.run_on(1, || assert_eq!(enter(&host, &vcpu, || ()), None));
}

/// Proves KR-8.
#[test]
fn a_vcpu_without_memory_is_an_error_and_leaks_nothing() {
    let host = MockHost::new();
    let failed = host.for_each_failing_alloc(|_| {
        let result = Vcpu::new(&host, 0).map(drop);
        assert_eq!(
            result,
            if host.injection_fired() {
                Err(Error::NoMemory)
            } else {
                Ok(())
            }
        );
        host.assert_no_leaks();
    });
    assert!(failed > 0);
}
