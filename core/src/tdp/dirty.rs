//! Write protection and the dirty log (TDP-13).
use core::ops::Range;

use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::flush::{DirtyLog, Op, Sinks, Tlb};
use super::table::{Entry, Table};
use super::walk::{Hold, Span, Visit, Yielding};
use super::{DirtyTracking, Mmu};
use crate::Error;
use crate::memslot::dirty::{WORD_BITS, bits};
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
        let span = Span {
            range,
            floor: Level::L2,
            yielding: Yielding::Allowed,
            hold: Hold::Shared,
        };
        // Fails in no visit that needs nothing.
        let _ = self.walk_space(Sinks::new(tlb, log), space, &span, &mut Visit::Clean);
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
        self.clean_words_in(Sinks::new(tlb, log), space, &mut words);
    }

    /// An indirect call for every 64 frames, and all of this compiled once.
    #[inline(never)]
    fn clean_words_in(
        &self,
        sinks: Sinks<'_>,
        space: SpaceId,
        words: &mut dyn FnMut() -> Option<(Gfn, u64)>,
    ) {
        let mut next = words();
        while next.is_some() {
            {
                let guard = self.lock.read();
                let rcu = RcuGuard::new(&self.space.hal);
                let mut op = Op::new(self, sinks, &rcu, true);
                while let Some((gfn, mask)) = next {
                    // All there are now: a bit may have come from a root that was
                    // made after the call began. None is made in this section.
                    let roots = guard.roots.iter();
                    for root in roots.filter(|root| root.role().space == space) {
                        op.clean_word(root.walk(&self.space, &rcu), gfn, mask);
                    }
                    next = words();
                    if self.lock.is_contended() || self.space.hal.should_yield() {
                        break;
                    }
                }
                op.finish();
            }
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
        let state = self.lock.write();
        if count()? {
            let rcu = RcuGuard::new(&self.space.hal);
            for (space, log) in SpaceId::ALL.into_iter().zip(logs) {
                let mut op = Op::new(self, Sinks::new(tlb, log), &rcu, false);
                for root in state.roots.iter().filter(|root| root.role().space == space) {
                    op.write_track(self.leaf(root, &rcu, gfn));
                }
                op.finish();
            }
        }
        Ok(())
    }
}

impl<'r, H: Hal> Op<'r, H> {
    /// Makes one leaf fault on its next write, under the lock.
    fn write_track(&mut self, mut entry: Entry<'r, H>) {
        while entry.kind() == Kind::Leaf {
            let new = self.mmu.space.format.write_tracked(entry.value());
            if self.exchange(&mut entry, new) {
                return;
            }
        }
    }

    /// What a leaf at `level` may keep: all but the bits that let a write go
    /// unseen. Cleaning a leaf only clears bits, so a value with all of them set
    /// shows which; once per table is enough.
    fn clean_bits(&self, level: Level) -> Spte {
        let format = &self.mmu.space.format;
        let cleaned = format.cleaned(Spte::from_bits(u64::MAX));
        if self.mmu.dirty == DirtyTracking::DirtyBit && level == Level::L1 {
            cleaned
        } else {
            format.write_protected(cleaned)
        }
    }

    /// Makes one leaf report its next write: it keeps no bits but those.
    /// Anything else is left alone: an entry that is not present is never
    /// modified (TDP-13).
    fn clean(&mut self, entry: &mut Entry<'r, H>) {
        let keep = self.clean_bits(entry.level());
        while entry.kind() == Kind::Leaf {
            let new = entry.value().and(keep);
            if new == entry.value() || self.exchange(entry, new) {
                return;
            }
        }
    }

    /// Makes what is mapped of `range` through an entry above the lowest tables
    /// report its next write, unless the walk comes to it.
    #[inline(never)]
    pub(super) fn clean_entry(&mut self, entry: &mut Entry<'r, H>, range: &Range<Gfn>) {
        match entry.child() {
            Some(table) if table.level() == Level::L1 => {
                let mut from = entry.gfn().max(range.start);
                let end = entry.gfn().add(Level::L2.pages()).min(range.end);
                while from < end {
                    let frames = (end.0 - from.0).min(WORD_BITS);
                    self.restrict(table, from, u64::MAX >> (WORD_BITS - frames));
                    from = from.add(frames);
                }
            }
            Some(_) => {}
            None => self.clean(entry),
        }
    }

    /// Makes up to 64 frames from `gfn` on report their next write.
    fn clean_word(&mut self, root: Table<'r, H>, gfn: Gfn, mask: u64) {
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
            if table {
                self.restrict(entry.table(), gfn, here);
            } else {
                self.clean(&mut entry);
            }
        }
    }

    /// Takes what lets a write go unseen from leaves of a lowest table: of the frame `gfn + i` for
    /// each bit i of `mask`, all of which are in that table. An [`exchange`](Op::exchange) for each
    /// of them would come to the same; most of what that decides is the same for all.
    fn restrict(&mut self, table: Table<'r, H>, gfn: Gfn, mask: u64) {
        let format = &self.mmu.space.format;
        let keep = self.clean_bits(Level::L1);
        let (mut left, mut flush, mut written) = (mask, 0, 0);
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let frame = gfn.add(u64::from(bit.trailing_zeros()));
            let Some(old) = table.entry(frame).restrict(keep) else {
                continue;
            };
            if format.needs_flush(old, old.and(keep)) {
                flush |= bit;
            }
            if format.is_dirty(old) {
                written |= bit;
            }
        }
        if flush != 0 && !removed(Part::WriteProtectFlush) {
            // What lies between the first and the last does no harm.
            self.flush_later(gfn.add(u64::from(flush.trailing_zeros())), Level::L1);
            self.flush_later(gfn.add(63 - u64::from(flush.leading_zeros())), Level::L1);
        }
        if let Some(log) = self.sinks.log
            && self.mmu.dirty == DirtyTracking::DirtyBit
            && !format.is_dirty(keep)
        {
            for offset in bits(written) {
                log.mark(gfn.add(offset.into()), Level::L1);
            }
        }
    }
}
