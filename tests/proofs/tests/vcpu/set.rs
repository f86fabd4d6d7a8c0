//! All vCPUs of a VM.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use waterbear_core::Error;
use waterbear_core::lock::RwLock;
use waterbear_core::lock_order::MMU;
use waterbear_core::request::Request;
use waterbear_core::vcpu::{MAX_VCPUS, Vcpus};
use waterbear_hal::RcuGuard;
use waterbear_mock::{MockConfig, MockHost};
use waterbear_proofs::vcpu_thread::{enter, settle};

/// Proves KR-4, BUG-16.
#[test]
fn an_index_that_is_not_online_is_an_error() {
    let host = MockHost::new();
    let vcpus = Vcpus::new(&host);
    vcpus.add(1).unwrap();
    for index in [
        0,
        2,
        63,
        64,
        MAX_VCPUS as u32 - 1,
        MAX_VCPUS as u32,
        u32::MAX,
    ] {
        assert!(vcpus.get(index).is_none(), "{index}");
        for request in [Request::EVENT, Request::TLB_FLUSH] {
            assert_eq!(vcpus.make_request(index, request), Err(Error::NotFound));
        }
    }
    assert_eq!(vcpus.make_request(1, Request::EVENT), Ok(()));
    assert!(vcpus.get(1).unwrap().requests().test(Request::EVENT));
}

/// Proves KR-4.
#[test]
fn a_request_to_all_of_no_vcpus_does_nothing() {
    let host = MockHost::new();
    let vcpus = Vcpus::new(&host);
    assert!(!vcpus.make_request_all(Request::TLB_FLUSH));
    assert_eq!(host.kick_calls(), 0);
    assert_eq!(host.live().blocks, 0);
}

/// Proves KR-4, BUG-16.
#[test]
fn an_index_out_of_range_is_invalid_and_one_that_is_taken_exists() {
    let host = MockHost::new();
    let vcpus = Vcpus::new(&host);
    for index in [MAX_VCPUS as u32, u32::MAX] {
        assert_eq!(vcpus.add(index).map(drop), Err(Error::Invalid));
    }
    for index in [0, 5, 64, MAX_VCPUS as u32 - 1] {
        assert_eq!(vcpus.add(index).map(|vcpu| vcpu.index()), Ok(index));
        assert_eq!(vcpus.add(index).map(drop), Err(Error::Exists));
    }
    let online: Vec<u32> = vcpus.iter().map(|vcpu| vcpu.index()).collect();
    assert_eq!(online, [0, 5, 64, MAX_VCPUS as u32 - 1]);
    drop(vcpus);
    host.assert_no_leaks();
}

/// Proves KR-4, BUG-16.
#[test]
fn a_vcpu_that_runs_out_of_memory_is_not_online() {
    let host = MockHost::new();
    let failed = host.for_each_failing_alloc(|_| {
        let vcpus = Vcpus::new(&host);
        let result = vcpus.add(7).map(drop);
        if host.injection_fired() {
            assert_eq!(result, Err(Error::NoMemory));
            assert!(vcpus.get(7).is_none());
            assert_eq!(vcpus.iter().count(), 0);
            assert!(vcpus.add(7).is_ok(), "and it can be tried again");
        }
        drop(vcpus);
        host.assert_no_leaks();
    });
    assert!(failed >= 3);
}

/// Proves KR-5.
#[test]
fn a_request_to_all_sends_one_interrupt_to_many_cpus() {
    let host = MockHost::with(MockConfig::new().cpus(5));
    for request in [
        Request::TLB_FLUSH,
        Request::EVENT,
        Request::OUTSIDE_GUEST_MODE,
    ] {
        let vcpus = Vcpus::new(&host);
        let running = Barrier::new(4);
        let sent_before: Vec<u64> = (0..5).map(|cpu| host.interrupts_sent(cpu)).collect();
        let calls_before = host.kick_calls();
        // vCPU 3 stays outside.
        (0..4).for_each(|index| assert!(vcpus.add(index).is_ok()));
        thread::scope(|scope| {
            for index in 0..3 {
                let (host, vcpus, running) = (&host, &vcpus, &running);
                scope.spawn(move || {
                    let vcpu = vcpus.get(index).unwrap();
                    settle(host, vcpu, 1 + index);
                    host.run_on(1 + index, || {
                        enter(host, vcpu, || {
                            running.wait();
                            host.wait_for_interrupt();
                        })
                    })
                });
            }
            running.wait();
            assert!(vcpus.make_request_all(request));
        });
        assert_eq!(host.kick_calls() - calls_before, 1);
        let sent: Vec<u64> = (0..5)
            .map(|cpu| host.interrupts_sent(cpu) - sent_before[cpu as usize])
            .collect();
        assert_eq!(sent, [0, 1, 1, 1, 0]);
        for vcpu in vcpus.iter() {
            let sets_a_bit = request != Request::OUTSIDE_GUEST_MODE;
            assert_eq!(vcpu.requests().test(request), sets_a_bit);
        }
    }
}

/// Proves KR-4.
#[test]
fn a_flush_may_be_sent_under_mmu_lock_and_in_an_rcu_section() {
    let host = MockHost::new();
    let mmu = RwLock::new(&host, &MMU, ()).unwrap();
    let vcpus = Vcpus::new(&host);
    let vcpu = vcpus.add(0).unwrap();
    settle(&host, vcpu, 1);
    let running = Barrier::new(2);
    let rounds = 3;
    thread::scope(|scope| {
        scope.spawn(|| {
            host.run_on(1, || {
                for _ in 0..rounds {
                    vcpu.check_requests(|_| Ok(())).unwrap();
                    enter(&host, vcpu, || {
                        running.wait();
                        host.wait_for_interrupt();
                    })
                    .unwrap();
                    running.wait();
                }
            })
        });
        for round in 0..rounds {
            running.wait();
            let allocations = host.allocations();
            match round {
                0 => {
                    let _write = mmu.write();
                    vcpus.flush_tlbs();
                }
                1 => {
                    let _read = mmu.read();
                    let _rcu = RcuGuard::new(&host);
                    vcpus.flush_tlbs();
                }
                _ => {
                    // A request that wakes as well.
                    let _write = mmu.write();
                    let _rcu = RcuGuard::new(&host);
                    vcpus.make_request_all(Request::EVENT);
                }
            }
            assert_eq!(host.allocations(), allocations);
            running.wait();
        }
    });
}

/// Proves KR-4, KR-1.
#[test]
fn after_a_flush_no_guest_uses_what_was_unmapped_before() {
    const ROUNDS: u64 = if cfg!(miri) { 10 } else { 1_000 };
    let host = MockHost::new();
    let vcpus = Vcpus::new(&host);
    (0..2).for_each(|index| assert!(vcpus.add(index).is_ok()));
    // The "page table" holds a generation; a TLB holds what it saw of it.
    let table = AtomicU64::new(0);
    let freed = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for index in 0..2 {
            let (host, vcpus, table, freed, done) = (&host, &vcpus, &table, &freed, &done);
            scope.spawn(move || {
                let vcpu = vcpus.get(index).unwrap();
                let mut tlb = 0;
                host.run_on(1 + index, || {
                    while !done.load(SeqCst) {
                        vcpu.check_requests(|request| {
                            assert_eq!(request, Request::TLB_FLUSH);
                            tlb = table.load(SeqCst);
                            Ok(())
                        })
                        .unwrap();
                        enter(host, vcpu, || {
                            while !host.interrupt_pending() && !done.load(SeqCst) {
                                assert!(tlb >= freed.load(SeqCst), "a stale translation");
                                thread::yield_now();
                            }
                        });
                    }
                })
            });
        }
        for round in 1..=ROUNDS {
            table.store(round, SeqCst);
            vcpus.flush_tlbs();
            freed.store(round, SeqCst);
        }
        done.store(true, SeqCst);
    });
}

/// Proves KR-4, BUG-16.
#[test]
fn vcpus_come_online_while_requests_are_sent_to_all() {
    let host = MockHost::new();
    let vcpus = Vcpus::new(&host);
    let count = if cfg!(miri) { 70 } else { MAX_VCPUS as u32 };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for half in 0..2 {
            let (host, vcpus) = (&host, &vcpus);
            scope.spawn(move || {
                // Two threads add the same vCPUs: each is added once.
                for index in 0..count {
                    let index = if half == 0 { index } else { count - 1 - index };
                    match vcpus.add(index) {
                        Ok(vcpu) => settle(host, vcpu, 1 + half),
                        Err(error) => assert_eq!(error, Error::Exists),
                    }
                    assert_eq!(vcpus.get(index).map(|vcpu| vcpu.index()), Some(index));
                }
            });
        }
        scope.spawn(|| {
            while !done.load(SeqCst) {
                vcpus.make_request_all(Request::OUTSIDE_GUEST_MODE);
                let _ = vcpus.make_request(count - 1, Request::OUTSIDE_GUEST_MODE);
                thread::yield_now();
            }
        });
        while vcpus.iter().count() < count as usize {
            thread::yield_now();
        }
        done.store(true, SeqCst);
    });
    drop(vcpus);
    host.assert_no_leaks();
}

/// Proves KR-6, BUG-16.
#[test]
fn a_death_reaches_vcpus_that_are_added_later() {
    let host = MockHost::new();
    let vcpus = Vcpus::new(&host);
    vcpus.add(0).unwrap();
    vcpus.make_request_all(Request::VM_DEAD);
    vcpus.add(1).unwrap();
    for vcpu in vcpus.iter() {
        assert_eq!(vcpu.check_requests(|_| Ok(())), Err(Error::Dead));
    }
}
