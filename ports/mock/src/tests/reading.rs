//! Read sections: ones that never sleep, and ones that may.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use waterbear_hal::{Memory, Pfn, Rcu, RcuGuard, Srcu};

use super::{free_deferred, read, write};
use crate::{MockConfig, MockHost, PinningHost};

#[test]
fn a_deferred_frame_stays_until_the_section_ends() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    let guard = RcuGuard::new(&host);
    free_deferred(&host, table);
    assert_eq!(read(&host, table, 0), 0);
    assert_eq!(host.live().deferred_tables, 1);
    {
        let _nested = RcuGuard::new(&host);
    }
    assert_eq!(host.live().deferred_tables, 1);
    drop(guard);
    host.assert_no_leaks();
}

#[test]
#[should_panic(expected = "is used outside an RCU read section")]
fn a_deferred_frame_is_not_for_those_outside_a_section() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            let _guard = RcuGuard::new(&host);
            begun.store(true, SeqCst);
            while !over.load(SeqCst) {
                std::thread::yield_now();
            }
        });
        while !begun.load(SeqCst) {
            std::thread::yield_now();
        }
        free_deferred(&host, table);
        let result = std::panic::catch_unwind(|| read(&host, table, 0));
        over.store(true, SeqCst);
        std::panic::resume_unwind(result.unwrap_err());
    });
}

#[test]
fn another_threads_section_delays_the_free_and_a_later_one_does_not() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    let stage = AtomicU64::new(0);
    let reach = |n| {
        stage.store(n, SeqCst);
    };
    let wait = |n| {
        while stage.load(SeqCst) < n {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| {
            let _guard = RcuGuard::new(&host);
            reach(1);
            wait(2);
            assert_eq!(read(&host, table, 0), 0);
            drop(_guard);
            let _later = RcuGuard::new(&host);
            reach(3);
            wait(4);
        });
        wait(1);
        free_deferred(&host, table);
        assert_eq!(host.live().deferred_tables, 1);
        reach(2);
        wait(3);
        host.rcu_barrier();
        host.assert_no_leaks();
        reach(4);
    });
}

#[test]
fn readers_never_meet_a_freed_table() {
    let host = MockHost::with(MockConfig::new().tables(8));
    let root = host.alloc_table().unwrap();
    let rounds = if cfg!(miri) { 12 } else { 5_000 };
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !over.load(SeqCst) {
                    let _guard = RcuGuard::new(&host);
                    let link = read(&host, root, 0);
                    assert!(link == 0 || read(&host, Pfn(link), 1) == 42);
                }
            });
        }
        for _ in 0..rounds {
            let child = loop {
                match host.alloc_table() {
                    Ok(child) => break child,
                    Err(_) => std::thread::yield_now(),
                }
            };
            write(&host, child, 1, 42);
            let _guard = RcuGuard::new(&host);
            let old = read(&host, root, 0);
            write(&host, root, 0, child.0);
            if old != 0 {
                free_deferred(&host, Pfn(old));
            }
        }
        over.store(true, SeqCst);
    });
}

#[test]
fn the_barrier_waits_for_sections_of_others() {
    let host = MockHost::new();
    let table = host.alloc_table().unwrap();
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            let guard = RcuGuard::new(&host);
            begun.store(true, SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            over.store(true, SeqCst);
            drop(guard);
        });
        while !begun.load(SeqCst) {
            std::thread::yield_now();
        }
        free_deferred(&host, table);
        host.rcu_barrier();
        assert!(over.load(SeqCst));
        host.assert_no_leaks();
    });
}

#[test]
#[should_panic(expected = "rcu_barrier may sleep, but this thread is in an RCU read section")]
fn the_barrier_is_not_for_those_in_a_section() {
    let host = MockHost::new();
    let _guard = RcuGuard::new(&host);
    host.rcu_barrier();
}

#[test]
fn synchronize_waits_for_older_sections_only() {
    let host = MockHost::new();
    let domain = host.new_srcu().unwrap();
    let stage = AtomicU64::new(0);
    let wait = |n| {
        while stage.load(SeqCst) < n {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|s| {
        let old = domain.lock();
        s.spawn(|| {
            stage.fetch_add(1, SeqCst);
            domain.synchronize();
            stage.fetch_add(10, SeqCst);
        });
        wait(1);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(stage.load(SeqCst), 1);
        s.spawn(|| {
            let new = domain.lock();
            stage.fetch_add(1, SeqCst);
            wait(12);
            // SAFETY: locked above, by this thread.
            unsafe { domain.unlock(new) };
        });
        wait(2);
        // SAFETY: locked above, by this thread.
        unsafe { domain.unlock(old) };
        wait(12);
    });
}

#[test]
fn without_srcu_new_readers_wait_for_one_who_synchronizes() {
    let host = PinningHost::new();
    let domain = host.new_srcu().unwrap();
    let entered = AtomicBool::new(false);
    std::thread::scope(|s| {
        let old = domain.lock();
        s.spawn(|| domain.synchronize());
        std::thread::sleep(Duration::from_millis(20));
        s.spawn(|| {
            let new = domain.lock();
            entered.store(true, SeqCst);
            // SAFETY: locked above, by this thread.
            unsafe { domain.unlock(new) };
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!entered.load(SeqCst));
        // SAFETY: locked above, by this thread.
        unsafe { domain.unlock(old) };
    });
    assert!(entered.load(SeqCst));
}

#[test]
#[should_panic(expected = "sleepable read sections do not nest")]
fn sleepable_sections_do_not_nest() {
    let host = MockHost::new();
    let domain = host.new_srcu().unwrap();
    domain.lock();
    domain.lock();
}

#[test]
#[should_panic(expected = "synchronize is called in a section of the same domain")]
fn a_reader_does_not_synchronize() {
    let host = MockHost::new();
    let domain = host.new_srcu().unwrap();
    domain.lock();
    domain.synchronize();
}
