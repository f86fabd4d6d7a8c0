//! The one function that every write of an entry goes through.
//!
//! It decides what a change calls for ([`effect`]), keeps the statistics,
//! moves dirty bits to the log, removes what was below, and notes the flush.
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::sync::spin_hint;
use waterbear_hal::{Gfn, Hal, Level};

use super::DirtyTracking;
use super::flush::{DirtyLog, Op, Tlb};
use super::table::{Entry, FreshTable, Table, Taken, Unlinked};
use super::transition::{Effect, effect};
use crate::spte::{Kind, Spte};

impl<'r, H: Hal, T: Tlb, D: DirtyLog> Op<'r, H, T, D> {
    /// Replaces what `entry` held by `new`, unless it has changed since.
    ///
    /// # Errors
    ///
    /// The entry as it is now; nothing was done.
    #[inline]
    pub(super) fn exchange(&mut self, entry: Entry<'r, H>, new: Spte) -> Result<(), Entry<'r, H>> {
        if self.check(&entry, new) == Effect::Illegal {
            return Err(entry);
        }
        let taken = entry.exchange(new)?;
        self.account(&entry, taken, new);
        Ok(())
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

    fn check(&self, entry: &Entry<'r, H>, new: Spte) -> Effect {
        let format = &self.mmu.space.format;
        let change = effect(entry.kind(), format.kind(new, entry.level()));
        let same_page = format.pfn(entry.value()) == format.pfn(new);
        if change == Effect::Illegal || (change == Effect::Compare && !same_page) {
            self.mmu
                .space
                .hal
                .bug("an illegal change of a page-table entry");
            return Effect::Illegal;
        }
        change
    }

    /// The bookkeeping for an entry that held `taken` and now holds `new`.
    #[inline]
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
        let format = &self.mmu.space.format;
        // TDP-10: the bit was taken out by the same atomic operation that
        // showed it to us, so it is reported here or nowhere.
        if self.mmu.dirty == DirtyTracking::DirtyBit
            && format.is_dirty(old)
            && !format.is_dirty(new)
        {
            self.log.mark(gfn, level);
        }
        if new.is_present() {
            if format.needs_flush(old, new) {
                self.flush_later(gfn, level);
            }
        } else {
            self.count(level, -1);
            self.flush_later(gfn, level);
            self.release_later(format.pfn(old));
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
        let new = if self.shared {
            Spte::FROZEN
        } else {
            Spte::EMPTY
        };
        for index in 0..ENTRIES as u64 {
            let entry = table.entry(start.add(index * step));
            if !self.shared && !entry.value().is_present() {
                continue;
            }
            loop {
                match entry.swap(new) {
                    Taken::Plain(Spte::FROZEN) => {
                        spin_hint();
                        continue;
                    }
                    Taken::Plain(old) if old.is_present() => {
                        self.leaf_changed(entry.gfn(), level, old, new);
                    }
                    Taken::Plain(_) => {}
                    Taken::Table(below) => self.remove_subtree(&below, entry.gfn()),
                }
                break;
            }
        }
    }
}
