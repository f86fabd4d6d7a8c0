//! Grace periods: a frame is freed when no reader that could see it is left.
//!
//! Each thread publishes the epoch in which its read section began, or zero.
//! Each deferral is stamped with the epoch that it ends. A frame is freed when
//! every open section began in a later epoch than the frame's stamp.
//!
//! The fence after publishing and the fence before looking at what others
//! published pair with each other: either the freer sees the section, or the
//! section sees everything that was unlinked before the deferral.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};

use waterbear_hal::Pfn;

use crate::Machine;
use crate::arena::State;
use crate::context::Thread;
use crate::sys::{PATIENCE, book};

/// The epoch in which a thread's outermost read section began; 0 outside.
#[derive(Default)]
pub(crate) struct Section(AtomicU64);

/// The frames that wait, and the sections that they wait for.
pub(crate) struct Grace {
    epoch: AtomicU64,
    sections: Mutex<Vec<Arc<Section>>>,
    deferred: Mutex<VecDeque<(u64, Pfn)>>,
    waiting: AtomicUsize,
}

impl Grace {
    pub(crate) fn new() -> Self {
        Self {
            epoch: AtomicU64::new(1),
            sections: Mutex::default(),
            deferred: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A place for a new thread to publish its sections.
    pub(crate) fn register(&self) -> Arc<Section> {
        let section = Arc::new(Section::default());
        let mut sections = book(&self.sections);
        sections.retain(|section| Arc::strong_count(section) > 1);
        sections.push(Arc::clone(&section));
        section
    }

    /// How many frames wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The epoch of the oldest section that is open.
    fn oldest(&self) -> u64 {
        // Pairs with `Machine::enter_section`.
        fence(Ordering::SeqCst);
        book(&self.sections)
            .iter()
            // Pairs with `Machine::leave_section`.
            .map(|section| section.0.load(Ordering::Acquire))
            .filter(|&epoch| epoch != 0)
            .min()
            .unwrap_or(u64::MAX)
    }
}

impl Machine {
    /// The outermost section of `thread` begins.
    pub(crate) fn enter_section(&self, thread: &Thread) {
        // Pairs with `Machine::defer_free`: a section of a later epoch sees
        // what was unlinked in an earlier one.
        let epoch = self.grace.epoch.load(Ordering::Acquire);
        thread.section.0.store(epoch, Ordering::Release);
        // Pairs with `Grace::oldest`.
        fence(Ordering::SeqCst);
    }

    /// The outermost section of `thread` is over.
    pub(crate) fn leave_section(&self, thread: &Thread) {
        // Pairs with `Grace::oldest`: what the section read is read.
        thread.section.0.store(0, Ordering::Release);
        if self.grace.waiting() > 0 {
            self.reclaim();
        }
    }

    /// Frees `pfn` after a grace period.
    pub(crate) fn defer_free(&self, pfn: Pfn) {
        {
            let mut deferred = book(&self.grace.deferred);
            // Pairs with `Machine::enter_section`.
            let stamp = self.grace.epoch.fetch_add(1, Ordering::AcqRel);
            deferred.push_back((stamp, pfn));
            self.grace.waiting.fetch_add(1, Ordering::Relaxed);
        }
        if self.thread().rcu_depth.get() == 0 {
            self.reclaim();
        }
    }

    /// Frees every frame whose grace period is over. Whoever sees a frame gone
    /// from the list knows that it is free.
    pub(crate) fn reclaim(&self) {
        let mut deferred = book(&self.grace.deferred);
        if deferred.is_empty() {
            return;
        }
        let oldest = self.grace.oldest();
        while let Some(&(stamp, pfn)) = deferred.front()
            && stamp < oldest
        {
            deferred.pop_front();
            self.grace.waiting.fetch_sub(1, Ordering::Relaxed);
            self.release_frame(pfn, State::Deferred);
        }
    }

    /// Waits until no frame waits that waits now.
    pub(crate) fn drain_deferred(&self) {
        let last = self.grace.epoch.load(Ordering::Acquire);
        let start = std::time::Instant::now();
        loop {
            self.reclaim();
            match book(&self.grace.deferred).front() {
                Some(&(stamp, _)) if stamp < last => {}
                _ => return,
            }
            assert!(
                start.elapsed() < PATIENCE,
                "deadlock: waited {PATIENCE:?} for the end of an RCU read section"
            );
            std::thread::yield_now();
        }
    }
}
