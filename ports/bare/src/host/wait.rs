//! Sleeping: a CPU that has nothing to do halts until somebody wakes it.
//!
//! ```text
//!   sleeper                          waker
//!   announce itself                  make the condition true
//!   woken = false                    fence
//!   fence                            look for sleepers
//!   is the condition true?           woken = true, interrupt
//!   interrupts off
//!   woken? if not: interrupts on and halt, in one
//! ```
//! Either the sleeper sees the condition, or it sees `woken`, or the interrupt
//! comes after interrupts were switched off and ends the halt at once.
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use waterbear_hal::{Cpu, CpuId, WaitQueue};

use super::{Bare, apic, cpu, percpu};
use crate::traps::vector;

/// Halts this CPU until `ready`, or with `interruptible` until a signal comes.
/// Says whether `ready` returned true.
pub fn until(interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
    assert!(cpu::interrupts_are_on(), "a sleeper must hear who wakes it");
    let me = percpu::this();
    let result = loop {
        me.woken.store(false, Ordering::Relaxed);
        // Pairs with the fence in `wake` and in `Queue::wake`.
        fence(Ordering::SeqCst);
        if ready() {
            break true;
        }
        let signalled = || interruptible && me.signal.load(Ordering::Relaxed);
        if signalled() {
            break false;
        }
        let were_on = Bare.irq_disable();
        if me.woken.load(Ordering::Relaxed) || signalled() {
            // SAFETY: pairs with the above.
            unsafe { Bare.irq_restore(were_on) }
        } else {
            // SAFETY: interrupts were on. An interrupt that waits is taken
            // only after `hlt` has begun, and ends it.
            unsafe { asm!("sti", "hlt", options(nostack)) }
        }
    };
    // A sleep inside another's `ready` has taken its wake-ups.
    me.woken.store(true, Ordering::Relaxed);
    result
}

/// Makes a CPU look again at what it sleeps for. Any context.
pub fn wake(number: CpuId) {
    let target = percpu::of(number);
    // Pairs with the fence in `until`: a sleeper that clears `woken` after
    // this sees what the caller did before.
    fence(Ordering::SeqCst);
    target.woken.store(true, Ordering::Relaxed);
    if number != percpu::this().number() {
        apic::send(target, vector::KICK);
    }
}

/// Signals the thread on a CPU: interruptible sleep there ends.
pub fn signal(number: CpuId) {
    percpu::of(number).signal.store(true, Ordering::Relaxed);
    wake(number);
}

/// Takes the signal of this CPU's thread, if there is one.
pub fn take_signal() -> bool {
    percpu::this().signal.swap(false, Ordering::Relaxed)
}

/// Where threads wait. There is one thread each CPU.
pub struct Queue {
    /// One bit each CPU that waits here.
    waiting: AtomicU32,
}

const _: () = assert!(percpu::MOST <= 32);

impl Queue {
    pub const fn new() -> Self {
        Self {
            waiting: AtomicU32::new(0),
        }
    }
}

impl WaitQueue for Queue {
    fn wait(&self, interruptible: bool, ready: impl FnMut() -> bool) -> bool {
        let bit = 1 << percpu::this().number();
        // Ordered before the first question by the fence in `until`.
        self.waiting.fetch_or(bit, Ordering::Relaxed);
        let result = until(interruptible, ready);
        self.waiting.fetch_and(!bit, Ordering::Relaxed);
        result
    }

    fn wake(&self) -> bool {
        // Pairs with the fence in `until`: either this sees the sleeper, or
        // the sleeper sees what the caller made true.
        fence(Ordering::SeqCst);
        let waiting = self.waiting.load(Ordering::Relaxed);
        (0..percpu::count())
            .filter(|cpu| waiting & 1 << cpu != 0)
            .for_each(wake);
        waiting != 0
    }
}
