//! Lock order and the rules of context.

use waterbear_hal::lock::{Lock, LockClass, LockKind, RawMutex, RawRwLock};
use waterbear_hal::{Cpu, IrqOff, Memory, Pinned, RcuGuard};

use crate::MockHost;

static OUTER: LockClass = LockClass {
    name: "outer",
    rank: 10,
    kind: LockKind::Sleeping,
};
static INNER: LockClass = LockClass {
    name: "inner",
    rank: 20,
    kind: LockKind::Sleeping,
};
static SPIN: LockClass = LockClass {
    name: "spin",
    rank: 30,
    kind: LockKind::Spinning,
};

#[test]
fn locks_are_taken_in_order_of_rank() {
    let host = MockHost::new();
    let outer = host.new_mutex(&OUTER).unwrap();
    let inner = host.new_mutex(&INNER).unwrap();
    let spin = host.new_rwlock(&SPIN).unwrap();
    outer.lock();
    inner.lock();
    spin.read();
    assert_eq!(host.held_locks(), ["outer", "inner", "spin"]);
    // SAFETY: locked above, by this thread; in any order.
    unsafe { outer.unlock() };
    // SAFETY: locked above, by this thread.
    unsafe { spin.unlock_read() };
    spin.write();
    // SAFETY: locked above, by this thread.
    unsafe { spin.unlock_write() };
    // SAFETY: locked above, by this thread.
    unsafe { inner.unlock() };
    outer.lock();
    // SAFETY: locked above, by this thread.
    unsafe { outer.unlock() };
}

#[test]
#[should_panic(expected = "lock order: `outer` (rank 10) is taken under `inner` (rank 20)")]
fn a_lock_of_lower_rank_is_refused() {
    let host = MockHost::new();
    let outer = host.new_mutex(&OUTER).unwrap();
    let inner = host.new_mutex(&INNER).unwrap();
    inner.lock();
    outer.lock();
}

#[test]
#[should_panic(expected = "lock order: `inner` (rank 20) is taken under `inner` (rank 20)")]
fn two_locks_of_one_rank_are_refused() {
    let host = MockHost::new();
    let a = host.new_mutex(&INNER).unwrap();
    let b = host.new_mutex(&INNER).unwrap();
    a.lock();
    b.lock();
}

#[test]
#[should_panic(expected = "`inner` is released by a thread that does not hold it")]
fn only_the_holder_releases() {
    let host = MockHost::new();
    let inner = host.new_mutex(&INNER).unwrap();
    // SAFETY: not kept; the mock is expected to notice.
    unsafe { inner.unlock() };
}

#[test]
#[should_panic(expected = "`spin` is released by a thread that does not hold it")]
fn a_reader_does_not_unlock_as_a_writer() {
    let host = MockHost::new();
    let spin = host.new_rwlock(&SPIN).unwrap();
    spin.read();
    // SAFETY: not kept; the mock is expected to notice.
    unsafe { spin.unlock_write() };
}

#[test]
#[should_panic(expected = "alloc_table may sleep, but this thread holds the spinning lock `spin`")]
fn nothing_is_allocated_under_a_spinning_lock() {
    let host = MockHost::new();
    let spin = host.new_rwlock(&SPIN).unwrap();
    spin.read();
    let _ = host.alloc_table();
}

#[test]
#[should_panic(expected = "inner may sleep, but this thread is in an RCU read section")]
fn no_mutex_is_taken_in_an_rcu_section() {
    let host = MockHost::new();
    let inner = host.new_mutex(&INNER).unwrap();
    let _guard = RcuGuard::new(&host);
    inner.lock();
}

#[test]
#[should_panic(expected = "yield_now may sleep, but this thread is pinned")]
fn a_pinned_thread_does_not_yield() {
    let host = MockHost::new();
    let _pinned = Pinned::new(&host);
    host.yield_now();
}

#[test]
#[should_panic(expected = "alloc_table may sleep, but interrupts are off")]
fn nothing_is_allocated_with_interrupts_off() {
    let host = MockHost::new();
    let _off = IrqOff::new(&host);
    let _ = host.alloc_table();
}

#[test]
#[should_panic(expected = "spin needs interrupts on")]
fn spinning_locks_are_taken_with_interrupts_on() {
    let host = MockHost::new();
    let spin = host.new_rwlock(&SPIN).unwrap();
    let _off = IrqOff::new(&host);
    spin.read();
}

#[test]
fn a_writer_excludes_everyone_and_waiting_for_it_is_contention() {
    let host = MockHost::new();
    let spin = host.new_rwlock(&SPIN).unwrap();
    let mut shared = 0;
    let cell = std::sync::atomic::AtomicPtr::new(&raw mut shared);
    spin.write();
    assert!(!spin.is_contended());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                for _ in 0..20 {
                    spin.write();
                    let shared = cell.load(std::sync::atomic::Ordering::Relaxed);
                    // SAFETY: `shared` outlives the scope and the lock is held.
                    unsafe { *shared += 1 };
                    // SAFETY: locked above, by this thread.
                    unsafe { spin.unlock_write() };
                }
            });
        }
        while !spin.is_contended() {
            std::thread::yield_now();
        }
        // SAFETY: locked above, by this thread.
        unsafe { spin.unlock_write() };
    });
    assert_eq!(shared, 40);
}

#[test]
fn contention_can_be_pretended() {
    let host = MockHost::new();
    let spin = host.new_rwlock(&SPIN).unwrap();
    host.force_contention(1);
    assert!(spin.is_contended());
    assert!(!spin.is_contended());
    host.contend_every(2);
    let answers: Vec<bool> = (0..4).map(|_| host.should_yield()).collect();
    assert_eq!(answers, [false, true, false, true]);
}
