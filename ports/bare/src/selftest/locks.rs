//! Locks lock.
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use waterbear_hal::{Lock, LockClass, LockKind, RawMutex, RawRwLock};

use super::{Miss, Together, Verdict, must, needs_two_cpus, soon};
use crate::host::{self, Bare};

const SLEEPING: LockClass = LockClass {
    name: "a mutex of the host's tests",
    rank: 0,
    kind: LockKind::Sleeping,
};
const SPINNING: LockClass = LockClass {
    name: "a lock of the host's tests",
    rank: 0,
    kind: LockKind::Spinning,
};

/// Adds in two steps, which only a lock makes one.
fn add(counter: &AtomicU32) {
    let before = counter.load(Ordering::Relaxed);
    core::hint::spin_loop();
    counter.store(before + 1, Ordering::Relaxed);
}

pub fn locks_exclude() -> Verdict {
    const ROUNDS: u32 = 500;
    let no_memory = |_| Miss::Failed("no memory");
    let mutex = Bare.new_mutex(&SLEEPING).map_err(no_memory)?;
    let lock = Bare.new_rwlock(&SPINNING).map_err(no_memory)?;
    let (in_mutex, left, right) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let torn = AtomicU32::new(0);
    let together = Together::new();
    host::run_on_all(|_| {
        together.begin();
        for _ in 0..ROUNDS {
            mutex.lock();
            add(&in_mutex);
            // SAFETY: locked above.
            unsafe { mutex.unlock() }
            lock.read();
            if left.load(Ordering::Relaxed) != right.load(Ordering::Relaxed) {
                torn.fetch_add(1, Ordering::Relaxed);
            }
            // SAFETY: locked above.
            unsafe { lock.unlock_read() }
            lock.write();
            add(&left);
            add(&right);
            // SAFETY: locked above.
            unsafe { lock.unlock_write() }
        }
    });
    let expected = ROUNDS * host::count();
    must(in_mutex.into_inner() == expected, "a mutex let two CPUs in")?;
    must(left.into_inner() == expected, "a lock let two writers in")?;
    must(torn.into_inner() == 0, "a reader was there with a writer")?;
    must(!lock.is_contended(), "somebody still waits")
}

pub fn a_waiter_makes_a_lock_contended() -> Verdict {
    needs_two_cpus()?;
    let lock = Bare
        .new_rwlock(&SPINNING)
        .map_err(|_| Miss::Failed("no memory"))?;
    let seen = AtomicBool::new(false);
    let locked = AtomicBool::new(false);
    host::run_on_all(|cpu| match cpu {
        0 => {
            lock.write();
            locked.store(true, Ordering::Relaxed);
            seen.store(soon(|| lock.is_contended()), Ordering::Relaxed);
            // SAFETY: locked above.
            unsafe { lock.unlock_write() }
        }
        1 => {
            soon(|| locked.load(Ordering::Relaxed));
            lock.read();
            // SAFETY: locked above.
            unsafe { lock.unlock_read() }
        }
        _ => (),
    });
    must(seen.into_inner(), "nobody saw that a CPU waits")
}
