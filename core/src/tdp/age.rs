//! Which pages are in use, for the host's reclaim (TDP-14).
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level};

use super::Mmu;
use super::flush::{DirtyLog, Op, Sinks, Tlb};
use super::table::Entry;
use super::walk::{Hold, Span, Visit, Yielding};
use crate::memslot::SpaceId;
use crate::spte::Kind;

impl<H: Hal> Mmu<H> {
    /// Clears the age of every page mapped in `range` and says whether any was
    /// used since it was last cleared. Does not sleep.
    ///
    /// Accessed bits are cleared without a flush: a page in the TLB may look
    /// old for a while, which costs the host a wrong guess and nothing else.
    pub fn age(
        &self,
        tlb: &impl Tlb,
        log: &impl DirtyLog,
        space: SpaceId,
        range: Range<Gfn>,
    ) -> bool {
        let sinks = Sinks::new(tlb, log);
        self.ages(sinks, space, range, Hold::Shared, Visit::Age(false))
    }

    /// Whether any page mapped in `range` was used since its age was last
    /// cleared. Changes nothing. Takes the lock only to see which roots there
    /// are.
    pub fn is_young(&self, space: SpaceId, range: Range<Gfn>) -> bool {
        self.ages(Sinks::NONE, space, range, Hold::Not, Visit::Look(false))
    }

    #[inline(never)]
    fn ages(
        &self,
        sinks: Sinks<'_>,
        space: SpaceId,
        range: Range<Gfn>,
        hold: Hold,
        mut visit: Visit<'_, H>,
    ) -> bool {
        let span = Span {
            range,
            floor: Level::L1,
            // The host may ask under a lock of its own under which nothing sleeps.
            yielding: Yielding::Forbidden,
            hold,
        };
        // Fails in no visit that needs nothing.
        let _ = self.walk_space(sinks, space, &span, &mut visit);
        matches!(visit, Visit::Age(true) | Visit::Look(true))
    }
}

impl<'r, H: Hal> Op<'r, H> {
    /// Whether the page behind the entry was used.
    #[inline(always)]
    pub(super) fn is_young(&self, entry: &Entry<'r, H>) -> bool {
        entry.kind() == Kind::Leaf && self.mmu.space.format.is_young(entry.value())
    }

    /// Clears the age; whether the page was used.
    #[inline(always)]
    pub(super) fn age(&mut self, entry: &mut Entry<'r, H>) -> bool {
        while self.is_young(entry) {
            let aged = self.mmu.space.format.aged(entry.value());
            if self.exchange(entry, aged) {
                return true;
            }
        }
        false
    }
}
