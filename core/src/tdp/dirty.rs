//! Write protection and the dirty log (TDP-13).
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::flush::{DirtyLog, Op, Tlb};
use super::table::{Entry, Table};
use super::walk::{MmuRead, MmuWrite, Mode, Span, Yielding};
use super::{DirtyTracking, Mmu};
use crate::Error;
use crate::memslot::dirty::WORD_BITS;
use crate::memslot::{ADDRESS_SPACES, SpaceId};
use crate::spte::{Kind, Spte};

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
            range: range.clone(),
            floor: Level::L2,
            yielding: Yielding::Allowed,
        };
        self.walk_all::<MmuRead, _, _>((tlb, log), &roots, span, |op, entry| match entry.child() {
            Some(table) if table.level() == Level::L1 => {
                let mut from = entry.gfn().max(range.start);
                let end = entry.gfn().add(Level::L2.pages()).min(range.end);
                let keep = clean_bits(self, Level::L1);
                while from < end {
                    let frames = (end.0 - from.0).min(WORD_BITS);
                    op.restrict(table, from, u64::MAX >> (WORD_BITS - frames), keep);
                    from = from.add(frames);
                }
            }
            Some(_) => {}
            None => clean(op, entry, clean_bits(self, entry.level())),
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
        let mut next = words();
        while next.is_some() {
            let guard = MmuRead::lock(&self.lock);
            let rcu = RcuGuard::new(&self.space.hal);
            let mut op = Op::new(self, tlb, log, &rcu, MmuRead::SHARED);
            while let Some((gfn, mask)) = next {
                // All there are now: a bit may have come from a root that was
                // made after the call began. None is made in this section.
                let roots = guard.roots.iter();
                for root in roots.filter(|root| root.role().space == space) {
                    clean_word(&mut op, root.walk(&self.space, &rcu), gfn, mask);
                }
                next = words();
                if self.lock.is_contended() || self.space.hal.should_yield() {
                    break;
                }
            }
            op.finish();
            drop(op);
            drop(rcu);
            drop(guard);
            if next.is_some() {
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
    /// `logs` are those of the address spaces, in order.
    ///
    /// # Errors
    ///
    /// What `count` returned.
    pub fn change_tracking<D: DirtyLog>(
        &self,
        tlb: &impl Tlb,
        logs: [&D; ADDRESS_SPACES],
        gfn: Gfn,
        count: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let state = MmuWrite::lock(&self.lock);
        if count()? {
            let rcu = RcuGuard::new(&self.space.hal);
            for (space, log) in SpaceId::ALL.into_iter().zip(logs) {
                let mut op = Op::new(self, tlb, log, &rcu, MmuWrite::SHARED);
                for root in state.roots.iter().filter(|root| root.role().space == space) {
                    write_track(&mut op, self.leaf(root, &rcu, gfn));
                }
                op.finish();
            }
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

/// What a leaf at `level` may keep: all but the bits that let a write go
/// unseen. Cleaning a leaf only clears bits, so a value with all of them set
/// shows which; once per table is enough.
fn clean_bits<H: Hal>(mmu: &Mmu<H>, level: Level) -> Spte {
    let format = &mmu.space.format;
    let cleaned = format.cleaned(Spte::from_bits(u64::MAX));
    if mmu.dirty == DirtyTracking::DirtyBit && level == Level::L1 {
        cleaned
    } else {
        format.write_protected(cleaned)
    }
}

/// Makes one leaf report its next write: it keeps no bits but `keep`. Anything
/// else is left alone: an entry that is not present is never modified (TDP-13).
fn clean<'r, H: Hal, T: Tlb, D: DirtyLog>(
    op: &mut Op<'r, H, T, D>,
    mut entry: Entry<'r, H>,
    keep: Spte,
) {
    while entry.kind() == Kind::Leaf {
        let new = entry.value().and(keep);
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
    while left != 0 {
        let first = gfn.add(u64::from(left.trailing_zeros()));
        let mut entry = root.entry(first);
        while let Some(child) = entry.child() {
            entry = child.entry(first);
        }
        // One walk serves all frames of a lowest table, or of a larger entry.
        let table = entry.level() == Level::L1;
        let reach = if table { Level::L2 } else { entry.level() };
        let beyond = first.align_down(reach).add(reach.pages()).0 - gfn.0;
        let reached = u64::MAX >> 64u64.saturating_sub(beyond);
        let here = left & reached;
        left &= !reached;
        let keep = clean_bits(op.mmu, entry.level());
        if !table {
            clean(op, entry, keep);
            continue;
        }
        op.restrict(entry.table(), gfn, here, keep);
    }
}
