//! Calls from one CPU to others.
//!
//! Each CPU has one place for the call that it makes. It fills it in, marks
//! who is to answer, interrupts them, and waits with interrupts on: so it
//! answers calls of others meanwhile, and two CPUs that call each other both
//! get their answers.
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::{CpuId, CpuSet, WaitQueue};

use super::wait::Queue;
use super::{apic, cpu, percpu};
use crate::traps::vector;

/// What is called; borrowed from the caller, who waits.
type Callee = *const (dyn Fn(CpuId) + Sync);

/// The call that one CPU makes.
pub struct Call {
    /// Written by its CPU while `unanswered` is 0, read by others while it is
    /// not.
    callee: UnsafeCell<Option<Callee>>,
    /// One bit each CPU that has not answered.
    unanswered: AtomicU32,
    /// Where the caller sleeps when the answers take long.
    caller: Queue,
}

/// How often the caller looks for the answers before it sleeps. An emulator
/// with fewer processors than it emulates needs those that spin to answer.
const LOOKS: u32 = 500;

const _: () = assert!(percpu::MOST <= 32);

// SAFETY: `callee` changes hands as its comment says, through `unanswered`;
// what it leads to is `Sync`.
unsafe impl Sync for Call {}

impl Call {
    pub const fn new() -> Self {
        Self {
            callee: UnsafeCell::new(None),
            unanswered: AtomicU32::new(0),
            caller: Queue::new(),
        }
    }
}

/// Runs `f` on the other CPUs of the set, with interrupts off there, and waits
/// for all of them. Not from a handler.
pub fn others(cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
    let targets = percpu::others(cpus).fold(0, |set, cpu| set | 1 << cpu.number());
    if targets == 0 {
        return;
    }
    assert!(
        cpu::interrupts_are_on(),
        "a CPU that waits for others must answer them"
    );
    let call = &percpu::this().call;
    let callee = core::ptr::from_ref(f);
    // SAFETY: only the lifetime is forgotten, and no CPU uses the pointer
    // after it has answered, which this function waits for.
    let callee: Callee = unsafe { core::mem::transmute(callee) };
    // SAFETY: no call of this CPU is under way.
    unsafe { *call.callee.get() = Some(callee) }
    // Pairs with the load in `answer`: who sees its bit sees the callee.
    call.unanswered.store(targets, Ordering::Release);
    for target in percpu::others(cpus) {
        apic::send(target, vector::CALL);
    }
    // Pairs with the end of `answer`: what the others did is visible here.
    let answered = || call.unanswered.load(Ordering::Acquire) == 0;
    for _ in 0..LOOKS {
        if answered() {
            return;
        }
        core::hint::spin_loop();
    }
    call.caller.wait(false, answered);
}

/// The handler: answers every call that waits for this CPU. One interrupt may
/// stand for several calls, and a later one then finds nothing to do.
pub fn answer() {
    let me = percpu::this().number();
    for caller in percpu::all() {
        let call = &caller.call;
        // Pairs with the store in `others`.
        if call.unanswered.load(Ordering::Acquire) & 1 << me == 0 {
            continue;
        }
        // SAFETY: our bit is set, so the caller waits and does not write.
        if let Some(callee) = unsafe { *call.callee.get() } {
            // SAFETY: the caller keeps it alive until our bit is clear.
            unsafe { (*callee)(me) }
        }
        // Pairs with the wait in `others`.
        let left = call.unanswered.fetch_and(!(1 << me), Ordering::Release);
        if left == 1 << me {
            call.caller.wake();
        }
    }
}
