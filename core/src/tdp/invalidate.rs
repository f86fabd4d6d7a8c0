//! The host's changes to user mappings, against faults in flight (TDP-8).
//!
//! A fault finds the page behind a frame without any lock, and may find it
//! just before the host takes it away. Two things keep it from installing a
//! page that is gone:
//!
//! ```text
//!   fault                              host's change
//!   -----                              -------------
//!   s := sequence                      lock; ranges in progress += 1
//!   read barrier                       remove what is mapped; flush; unlock
//!   find the page (may sleep)          ... the host changes its tables ...
//!   lock (read)                        lock; sequence += 1
//!   in progress there, or s changed?   ranges in progress -= 1; unlock
//!     yes: release, retry
//!   install; unlock
//! ```
//!
//! A fault that looked before the change began finds, under the lock, either
//! the range in progress or the sequence raised. One that looked after the
//! host had changed its tables found the new page.
use core::ops::Range;

use waterbear_hal::sync::atomic::Ordering;
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal};

use super::{Mmu, State};

/// The ranges that are being invalidated: how many, and what contains them
/// all. Under `mmu_lock`.
#[derive(Default)]
pub struct Invalidation {
    in_progress: u32,
    start: Gfn,
    end: Gfn,
}

/// The sequence as of the moment a fault began to look for its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot(u64);

impl<H: Hal> Mmu<H> {
    /// Notes the sequence before the page is looked for.
    pub fn snapshot(&self) -> Snapshot {
        let barrier = if removed(Part::SnapshotBarrier) {
            Ordering::Relaxed
        } else {
            // The look-up of the page comes after. Pairs with the raise in
            // `end_invalidation`.
            Ordering::Acquire
        };
        Snapshot(self.sequence.load(barrier))
    }

    /// Whether pages that were found after `snapshot` may no longer be those
    /// behind `frames`: all that the leaf is going to map, not only the frame
    /// that faulted. Under the lock: this is the check that counts.
    pub fn is_stale(&self, state: &State<H>, snapshot: Snapshot, frames: &Range<Gfn>) -> bool {
        if removed(Part::InvalidationCheck) {
            return false;
        }
        let invalidation = &state.invalidation;
        let changing = invalidation.start < frames.end && frames.start < invalidation.end;
        (invalidation.in_progress != 0 && changing)
            // Acquire is not needed for the value: it changes under the write
            // lock only, and we hold the lock.
            || self.sequence.load(Ordering::Relaxed) != snapshot.0
    }

    /// Pages behind `range` are about to change: from now on no fault there
    /// installs anything. The caller removes what is mapped next.
    pub fn begin_invalidation(&self, range: Range<Gfn>) {
        let mut state = self.lock.write();
        let invalidation = &mut state.invalidation;
        if invalidation.in_progress == 0 {
            invalidation.start = range.start;
            invalidation.end = range.end;
        } else {
            // Precise for one change at a time, conservative for several.
            invalidation.start = invalidation.start.min(range.start);
            invalidation.end = invalidation.end.max(range.end);
        }
        invalidation.in_progress += 1;
    }

    /// The change is done.
    pub fn end_invalidation(&self) {
        let mut state = self.lock.write();
        // Release: pairs with `snapshot`; what the host changed is seen by who
        // sees the new sequence.
        self.sequence.fetch_add(1, Ordering::Release);
        match state.invalidation.in_progress.checked_sub(1) {
            Some(left) => state.invalidation.in_progress = left,
            None => self.space.hal.bug("an invalidation ended that never began"),
        }
    }
}
