//! The set of requests of one vCPU.

use std::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::request::{Request, RequestFlags, Requests};

/// Proves KR-6.
#[test]
fn a_check_takes_a_request_once() {
    let requests = Requests::new();
    assert!(!requests.any());
    assert!(!requests.check(Request::TLB_FLUSH));
    requests.make(Request::TLB_FLUSH);
    requests.make(Request::TLB_FLUSH);
    assert!(requests.any());
    assert!(requests.test(Request::TLB_FLUSH));
    assert!(requests.check(Request::TLB_FLUSH));
    assert!(!requests.check(Request::TLB_FLUSH));
    assert!(!requests.any());
}

/// Proves KR-6.
#[test]
fn a_check_leaves_other_requests_alone() {
    for request in Request::ALL {
        let requests = Requests::default();
        Request::ALL.iter().for_each(|&other| requests.make(other));
        assert!(requests.check(request));
        for other in Request::ALL {
            let gone = other == request && other != Request::VM_DEAD;
            assert_eq!(requests.test(other), !gone, "{other:?} after {request:?}");
        }
    }
}

/// Proves KR-6.
#[test]
fn a_death_is_never_cleared() {
    let requests = Requests::new();
    requests.make(Request::VM_DEAD);
    assert!(requests.check(Request::VM_DEAD));
    assert!(requests.check(Request::VM_DEAD));
    assert!(requests.test(Request::VM_DEAD));
}

/// Proves KR-5.
#[test]
fn a_request_without_action_sets_no_bit() {
    let requests = Requests::new();
    requests.make(Request::OUTSIDE_GUEST_MODE);
    assert!(!requests.any());
    assert!(!requests.test(Request::OUTSIDE_GUEST_MODE));
    assert!(!requests.check(Request::OUTSIDE_GUEST_MODE));
}

/// Proves KR-4, KR-5.
#[test]
fn flushes_and_reloads_wait_and_let_sleepers_sleep() {
    for request in [Request::TLB_FLUSH, Request::MMU_RELOAD] {
        assert_eq!(
            request.flags(),
            RequestFlags::WAIT | RequestFlags::NO_WAKEUP
        );
    }
    for request in [Request::EVENT, Request::UNBLOCK, Request::VM_DEAD] {
        assert!(!request.flags().contains(RequestFlags::NO_WAKEUP));
    }
}

/// Proves KR-6.
#[test]
fn no_request_is_lost_and_a_check_sees_what_its_sender_did() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 5_000 };
    let kinds = [Request::TLB_FLUSH, Request::EVENT, Request::UNBLOCK];
    let requests = Requests::new();
    let sent: [AtomicU64; 3] = Default::default();
    let seen: [AtomicU64; 3] = Default::default();
    std::thread::scope(|scope| {
        for (kind, &request) in kinds.iter().enumerate() {
            let (requests, sent, seen) = (&requests, &sent[kind], &seen[kind]);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    sent.store(round, Ordering::Relaxed);
                    requests.make(request);
                    while seen.load(Ordering::Relaxed) < round {
                        std::thread::yield_now();
                    }
                }
            });
        }
        while seen
            .iter()
            .any(|seen| seen.load(Ordering::Relaxed) < ROUNDS)
        {
            for (kind, &request) in kinds.iter().enumerate() {
                if requests.check(request) {
                    let sent = sent[kind].load(Ordering::Relaxed);
                    let before = seen[kind].swap(sent, Ordering::Relaxed);
                    assert_eq!(sent, before + 1, "a check missed what its sender did");
                }
            }
            std::thread::yield_now();
        }
    });
}
