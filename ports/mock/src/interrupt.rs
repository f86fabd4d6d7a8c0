//! Interrupts of one simulated CPU.
//!
//! While a thread has a CPU's interrupts off, an interrupt to that CPU is
//! pending; it is taken when they go on again. With interrupts on it is taken
//! at once. Both sides go through the CPU's mutex, which orders what the
//! sender did before against what the CPU does after, and the other way round
//! for a sender that waits. Somebody who sends nothing touches nothing here,
//! and polling for an interrupt orders nothing, so the mock does not hide a
//! barrier that is missing in the code under test.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::sys::{self, Condvar, Mutex, MutexGuard};

#[derive(Default)]
struct State {
    /// Whether a thread has interrupts off here.
    off: bool,
    /// How often interrupts went on again.
    sections: u64,
    /// Threads that wait for something to change here.
    waiting: u32,
}

/// One CPU.
#[derive(Default)]
pub(crate) struct SimCpu {
    state: Mutex<State>,
    moved: Condvar,
    /// A book: read without any ordering by a simulated guest that polls.
    pending: AtomicBool,
    /// A book: the same as `State::off`.
    taken_over: AtomicBool,
    sent: AtomicU64,
    taken: AtomicU64,
}

/// What a sender that waits must see pass: the CPU's section with interrupts
/// off that was under way.
#[derive(Clone, Copy)]
pub(crate) struct Section(u64);

impl SimCpu {
    /// Turns interrupts off. Waits while another thread has them off here, and
    /// interrupts that one, as the host's scheduler does when two threads want
    /// one CPU.
    pub(crate) fn disable(&self) {
        let mut state = self.free();
        state.off = true;
        self.taken_over.store(true, Relaxed);
    }

    /// Waits while another thread has interrupts off here, as a thread does
    /// that wants to run on this CPU.
    pub(crate) fn wait_for_turn(&self) {
        if self.taken_over.load(Relaxed) {
            drop(self.free());
        }
    }

    fn free(&self) -> MutexGuard<'_, State> {
        let mut state = sys::lock(&self.state);
        while state.off {
            self.pending.store(true, Relaxed);
            self.moved.notify_all();
            state.waiting += 1;
            state = sys::wait(&self.moved, state, "a CPU that another thread runs on");
            state.waiting -= 1;
        }
        state
    }

    /// Turns interrupts on, and takes what is pending.
    pub(crate) fn enable(&self) {
        let mut state = sys::lock(&self.state);
        state.off = false;
        self.taken_over.store(false, Relaxed);
        state.sections += 1;
        if self.pending.swap(false, Relaxed) {
            self.taken.fetch_add(1, Relaxed);
        }
        if state.waiting > 0 {
            self.moved.notify_all();
        }
    }

    /// Sends an interrupt. Returns the section to wait for, or `None` when the
    /// interrupt was taken at once.
    pub(crate) fn interrupt(&self) -> Option<Section> {
        self.sent.fetch_add(1, Relaxed);
        let state = sys::lock(&self.state);
        if !state.off {
            self.taken.fetch_add(1, Relaxed);
            return None;
        }
        self.pending.store(true, Relaxed);
        if state.waiting > 0 {
            self.moved.notify_all();
        }
        Some(Section(state.sections))
    }

    /// Waits until the section is over.
    pub(crate) fn wait_for(&self, section: Section) {
        let mut state = sys::lock(&self.state);
        while state.off && state.sections == section.0 {
            state.waiting += 1;
            state = sys::wait(&self.moved, state, "a CPU to take an interrupt");
            state.waiting -= 1;
        }
    }

    /// Waits until an interrupt is pending.
    pub(crate) fn wait_until_pending(&self) {
        let mut state = sys::lock(&self.state);
        while !self.is_pending() {
            state.waiting += 1;
            state = sys::wait(&self.moved, state, "an interrupt that ends guest mode");
            state.waiting -= 1;
        }
    }

    /// Whether an interrupt is pending. Orders nothing.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Relaxed)
    }

    /// How many interrupts were sent here, and how many taken. Those that were
    /// sent while one was pending are taken with it.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.taken.load(Relaxed))
    }
}
