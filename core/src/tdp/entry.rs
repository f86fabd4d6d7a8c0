//! The one function that every write of an entry goes through.
//!
//! It decides what a change calls for ([`effect`]), keeps the statistics,
//! moves dirty bits to the log, removes what was below, and notes the flush.
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::sync::spin_hint;
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal, Level};

use super::DirtyTracking;
use super::flush::{DirtyLog, Op, Tlb};
use super::table::{Entry, FreshTable, Table, Taken, Unlinked};
use super::transition::{Effect, effect};
use crate::memslot::dirty::bits;
use crate::spte::{Kind, Spte};

impl<'r, H: Hal, T: Tlb, D: DirtyLog> Op<'r, H, T, D> {
    /// Replaces what `entry` held by `new`, unless it has changed since.
    ///
    /// # Errors
    ///
    /// The entry as it is now; nothing was done.
    #[inline(never)]
    pub(super) fn exchange(&mut self, entry: Entry<'r, H>, new: Spte) -> Result<(), Entry<'r, H>> {
        self.exchange_inline(entry, new)
    }

    /// As [`exchange`](Op::exchange), compiled into its caller: for loops that
    /// do the same to page after page, where much of it is decided beforehand.
    #[inline(always)]
    pub(super) fn exchange_inline(
        &mut self,
        entry: Entry<'r, H>,
        new: Spte,
    ) -> Result<(), Entry<'r, H>> {
        if !self.is_legal(&entry, new) {
            return Err(entry);
        }
        let taken = entry.exchange(new)?;
        self.account(&entry, taken, new);
        Ok(())
    }

    /// Takes the bits that `keep` lacks from leaves of a lowest table: of the frame `gfn + i` for
    /// each bit i of `mask`, all of which are in that table. An [`exchange`](Op::exchange) for each
    /// of them would come to the same; most of what that decides is the same for all.
    pub(super) fn restrict(&mut self, table: Table<'r, H>, gfn: Gfn, mask: u64, keep: Spte) {
        let format = &self.mmu.space.format;
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
        if self.mmu.dirty == DirtyTracking::DirtyBit && !format.is_dirty(keep) {
            for offset in bits(written) {
                self.log.mark(gfn.add(offset.into()), Level::L1);
            }
        }
    }

    /// Links `table` in place of what `entry` held, unless it has changed.
    ///
    /// # Errors
    ///
    /// The entry as it is now, and the table back.
    pub(super) fn link(
        &mut self,
        entry: Entry<'r, H>,
        table: FreshTable<H>,
    ) -> Result<Table<'r, H>, (Entry<'r, H>, FreshTable<H>)> {
        let linked = entry.link(table)?;
        if entry.kind() == Kind::Leaf {
            // A split: the same pages, mapped in parts.
            self.count(entry.level(), -1);
            self.count(linked.level(), ENTRIES as i64);
        }
        Ok(linked)
    }

    /// Replaces the leaf `entry` by `new`, which maps another page or is an
    /// MMIO entry, with the old mapping gone from every TLB in between.
    ///
    /// # Errors
    ///
    /// The entry as it is now. What was mapped may be gone.
    pub(super) fn replace(&mut self, entry: Entry<'r, H>, new: Spte) -> Result<(), Entry<'r, H>> {
        self.exchange(entry, Spte::FROZEN)?;
        self.settle();
        self.exchange(entry.reload(), new)
    }

    #[inline(always)]
    fn is_legal(&self, entry: &Entry<'r, H>, new: Spte) -> bool {
        let format = &self.mmu.space.format;
        let legal = match effect(entry.kind(), format.kind(new, entry.level())) {
            Effect::Illegal => false,
            Effect::Compare => format.pfn(entry.value()) == format.pfn(new),
            Effect::Quiet | Effect::Flush | Effect::Unlink => true,
        };
        if !legal {
            self.mmu
                .space
                .hal
                .bug("an illegal change of a page-table entry");
        }
        legal
    }

    /// The bookkeeping for an entry that held `taken` and now holds `new`.
    #[inline(always)]
    fn account(&mut self, entry: &Entry<'r, H>, taken: Taken<'r, H>, new: Spte) {
        let format = &self.mmu.space.format;
        let (gfn, level) = (entry.gfn(), entry.level());
        match taken {
            Taken::Plain(old) => {
                if old.is_present() {
                    self.leaf_changed(gfn, level, old, new);
                } else if format.kind(new, level) == Kind::Leaf {
                    self.count(level, 1);
                }
            }
            Taken::Table(table) => {
                if format.kind(new, level) == Kind::Leaf {
                    self.count(level, 1);
                }
                self.flush_later(gfn, level);
                self.remove_subtree(&table, gfn);
            }
        }
    }

    /// A leaf became `new`: a leaf of the same page, or nothing.
    #[inline(always)]
    fn leaf_changed(&mut self, gfn: Gfn, level: Level, old: Spte, new: Spte) {
        if !new.is_present() {
            self.flush_later(gfn, level);
            self.leaf_gone(gfn, level, old);
            return;
        }
        let format = &self.mmu.space.format;
        if !format.is_dirty(new) {
            self.report(gfn, level, old);
        }
        if format.needs_flush(old, new) && !removed(Part::WriteProtectFlush) {
            self.flush_later(gfn, level);
        }
    }

    /// A leaf is gone, and the flush that this calls for is noted.
    #[inline(always)]
    fn leaf_gone(&mut self, gfn: Gfn, level: Level, old: Spte) {
        self.report(gfn, level, old);
        self.count(level, -1);
        self.release_later(self.mmu.space.format.pfn(old));
    }

    /// A leaf lost its dirty bit, if it had one. The bit was taken out by the
    /// same atomic operation that showed it to us, so it is reported here or
    /// nowhere (TDP-10).
    #[inline(always)]
    fn report(&self, gfn: Gfn, level: Level, old: Spte) {
        if self.mmu.dirty == DirtyTracking::DirtyBit && self.mmu.space.format.is_dirty(old) {
            self.log.mark(gfn, level);
        }
    }

    /// Takes every entry out of a table that was unlinked, and frees the
    /// tables below. The caller has noted a flush of all of it.
    ///
    /// With the lock held for reading a fault on another CPU may have reached
    /// the table before it was unlinked, so each entry is frozen and stays so:
    /// the fault's compare-exchange fails (TDP-4). One that the fault itself
    /// has frozen is waited for: the fault writes it once more, and only what
    /// is taken out after that is the last there was (TDP-3). It waits for
    /// nobody but the CPUs that flush, and so not for us. With the lock held for
    /// writing there is no fault, and only what is present is taken out, by
    /// exchange because hardware may still set its dirty bit.
    fn remove_subtree(&mut self, unlinked: &Unlinked<'r, H>, start: Gfn) {
        let table = unlinked.table();
        let (level, step) = (table.level(), table.level().pages());
        let new = if self.shared && !removed(Part::FreezeRemoved) {
            Spte::FROZEN
        } else {
            Spte::EMPTY
        };
        for index in 0..ENTRIES as u64 {
            let entry = table.entry(start.add(index * step));
            if !self.shared && !entry.value().is_present() {
                continue;
            }
            let taken = loop {
                match entry.swap(new) {
                    Taken::Plain(Spte::FROZEN) if !removed(Part::FrozenWait) => spin_hint(),
                    taken => break taken,
                }
            };
            match taken {
                Taken::Plain(old) if old.is_present() => {
                    self.leaf_gone(entry.gfn(), level, old);
                }
                Taken::Plain(_) => {}
                Taken::Table(below) => self.remove_subtree(&below, entry.gfn()),
            }
        }
    }
}
