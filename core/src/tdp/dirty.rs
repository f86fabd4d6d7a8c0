//! Write protection and the dirty log (TDP-13).
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::flush::{DirtyLog, Op, Tlb};
use super::table::{Entry, Table};
use super::walk::{MmuRead, MmuWrite, Mode, Span, Yielding};
use super::{DirtyTracking, Mmu};
use crate::Error;
use crate::memslot::SpaceId;
use crate::spte::{EntryFormat, Kind, Spte};

impl<H: Hal> Mmu<H> {
    /// Makes every page mapped in `range` report its next write: dirty bits
    /// are cleared and reported, or W is taken away. Large mappings lose W in
    /// either case, because the log is kept per 4 KiB. When this returns every
    /// later write is reported. May sleep.
    pub fn start_logging(
        &self,
        tlb: &impl Tlb,
        log: &impl DirtyLog,
        space: SpaceId,
        range: Range<Gfn>,
    ) {
        let roots = self.roots(space);
        let span = Span {
            range,
            floor: Level::L1,
            yielding: Yielding::Allowed,
        };
        self.walk_all::<MmuRead, _, _>((tlb, log), &roots, span, |op, entry| {
            clean(op, entry);
        });
    }

    /// Moves the dirty bits of `range` to the log, where hardware keeps them.
    /// When this returns every later write sets one again.
    pub fn harvest(&self, tlb: &impl Tlb, log: &impl DirtyLog, space: SpaceId, range: Range<Gfn>) {
        if self.dirty == DirtyTracking::DirtyBit {
            self.start_logging(tlb, log, space, range);
        }
    }

    /// Makes the pages of some frames report their next write: those that
    /// `words` names, 64 frames a word, bit i of a word for frame `gfn + i`.
    /// One flush for all of them, unless somebody waits for the lock. Bits
    /// that `words` takes out of a log must be taken before their page is
    /// protected here; when this returns all are. May sleep.
    ///
    /// `log` gets dirty bits that are found; pass `&()` to drop them.
    pub fn clean_words(
        &self,
        tlb: &impl Tlb,
        log: &impl DirtyLog,
        space: SpaceId,
        mut words: impl FnMut() -> Option<(Gfn, u64)>,
    ) {
        let mut more = true;
        while more {
            let guard = MmuRead::lock(&self.lock);
            let rcu = RcuGuard::new(&self.space.hal);
            let mut op = Op::new(self, tlb, log, &rcu, MmuRead::SHARED);
            loop {
                let Some((gfn, mask)) = words() else {
                    more = false;
                    break;
                };
                // All there are now: a bit may have come from a root that was
                // made after the call began. None is made in this section.
                let roots = guard.roots.iter();
                for root in roots.filter(|root| root.role().space == space) {
                    clean_word(&mut op, root.walk(&self.space, &rcu), gfn, mask);
                }
                if self.lock.is_contended() || self.space.hal.should_yield() {
                    break;
                }
            }
            op.finish();
            drop(rcu);
            drop(guard);
            if more {
                self.space.hal.yield_now();
            }
        }
    }

    /// Runs `count`, which changes the track count of the page at `gfn`, under
    /// the write lock; if it says that the page is tracked from now on, takes
    /// W from the page in every root of every address space, so that only a
    /// fault under the lock gives it back. When this returns no vCPU writes to
    /// the page unseen (PT-2). Does not sleep.
    ///
    /// # Errors
    ///
    /// What `count` returned.
    pub fn change_tracking(
        &self,
        tlb: &impl Tlb,
        log: &impl DirtyLog,
        gfn: Gfn,
        count: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let state = MmuWrite::lock(&self.lock);
        if count()? {
            let rcu = RcuGuard::new(&self.space.hal);
            let mut op = Op::new(self, tlb, log, &rcu, MmuWrite::SHARED);
            for root in state.roots.iter() {
                write_track(&mut op, self.leaf(root, &rcu, gfn));
            }
            op.finish();
        }
        Ok(())
    }
}

/// Makes one leaf fault on its next write, under the lock.
fn write_track<'r, H: Hal, T: Tlb, D: DirtyLog>(op: &mut Op<'r, H, T, D>, mut entry: Entry<'r, H>) {
    while entry.kind() == Kind::Leaf {
        let new = op.mmu.space.format.write_tracked(entry.value());
        match op.exchange(entry, new) {
            Ok(()) => return,
            Err(now) => entry = now,
        }
    }
}

/// The entry without what would let a write go unseen.
#[inline(always)]
fn cleaned(format: &EntryFormat, tracking: DirtyTracking, value: Spte, level: Level) -> Spte {
    if tracking == DirtyTracking::DirtyBit && level == Level::L1 {
        format.cleaned(value)
    } else {
        format.cleaned(format.write_protected(value))
    }
}

/// Makes one leaf report its next write. Anything else is left alone: an entry
/// that is not present is never modified (TDP-13).
#[inline(always)]
fn clean<'r, H: Hal, T: Tlb, D: DirtyLog>(op: &mut Op<'r, H, T, D>, mut entry: Entry<'r, H>) {
    while entry.kind() == Kind::Leaf {
        let new = cleaned(
            &op.mmu.space.format,
            op.mmu.dirty,
            entry.value(),
            entry.level(),
        );
        if new == entry.value() {
            return;
        }
        match op.exchange(entry, new) {
            Ok(()) => return,
            Err(now) => entry = now,
        }
    }
}

/// Makes up to 64 frames from `gfn` on report their next write.
fn clean_word<'r, H: Hal, T: Tlb, D: DirtyLog>(
    op: &mut Op<'r, H, T, D>,
    root: Table<'r, H>,
    gfn: Gfn,
    mask: u64,
) {
    let mut left = mask;
    // The lowest table that was met, and the first frame that it spans: a word
    // may reach from one table into the next, since slots begin anywhere.
    let mut last: Option<(Table<'r, H>, Gfn)> = None;
    while left != 0 {
        let at = gfn.add(u64::from(left.trailing_zeros()));
        left &= left - 1;
        let spanned_from = at.align_down(Level::L2);
        let entry = match last {
            Some((table, first)) if first == spanned_from => table.entry(at),
            _ => {
                let mut entry = root.entry(at);
                while let Some(child) = entry.child() {
                    if child.level() == Level::L1 {
                        last = Some((child, spanned_from));
                    }
                    entry = child.entry(at);
                }
                entry
            }
        };
        clean(op, entry);
    }
}
