//! Which pages are in use, for the host's reclaim (TDP-14).
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::Mmu;
use super::flush::{DirtyLog, Tlb};
use super::iter::Iter;
use super::walk::{MmuRead, Span, Yielding};
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
        let format = &self.space.format;
        let mut young = false;
        let roots = self.roots(space);
        let span = Span {
            range,
            floor: Level::L1,
            // The host may ask under a lock of its own under which nothing sleeps.
            yielding: Yielding::Forbidden,
        };
        self.walk_all::<MmuRead, _, _>((tlb, log), &roots, span, |op, mut entry| {
            while entry.kind() == Kind::Leaf && format.is_young(entry.value()) {
                match op.exchange(entry, format.aged(entry.value())) {
                    Ok(()) => {
                        young = true;
                        break;
                    }
                    Err(now) => entry = now,
                }
            }
        });
        young
    }

    /// Whether any page mapped in `range` was used since its age was last
    /// cleared. Changes nothing. Takes the lock only to see which roots there
    /// are.
    pub fn is_young(&self, space: SpaceId, range: Range<Gfn>) -> bool {
        let end = range.end.min(self.space.format.end());
        self.roots(space).iter().flatten().any(|root| {
            let rcu = RcuGuard::new(&self.space.hal);
            let iter = Iter::new(root.walk(&self.space, &rcu), range.start..end, Level::L1);
            for entry in iter {
                if entry.kind() == Kind::Leaf && self.space.format.is_young(entry.value()) {
                    return true;
                }
            }
            false
        })
    }
}
