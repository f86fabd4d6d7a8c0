//! The one function that every write of an entry goes through.
//!
//! It decides what a change calls for ([`effect`]), keeps the statistics,
//! moves dirty bits to the log, removes what was below, and notes the flush.
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::sync::spin_hint;
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal, Level};

use super::DirtyTracking;
use super::cache::TableCache;
use super::flush::Op;
use super::table::{Entry, FreshTable, Table, Taken, Unlinked};
use super::transition::{Effect, effect};
use crate::spte::{Kind, Spte};

impl<'r, H: Hal> Op<'r, H> {
    /// Replaces what `entry` held by `new`, unless it has changed since: then
    /// nothing was done, and `entry` is as it is now. Whether it was done.
    #[inline(never)]
    pub(super) fn exchange(&mut self, entry: &mut Entry<'r, H>, new: Spte) -> bool {
        let format = &self.mmu.space.format;
        let (old, level) = (entry.value(), entry.level());
        let becomes = format.kind(new, level);
        let legal = match effect(entry.kind(), becomes) {
            Effect::Illegal => false,
            Effect::Compare => format.pfn(old) == format.pfn(new),
            Effect::Quiet | Effect::Flush | Effect::Unlink => true,
        };
        if !legal {
            let hal = &self.mmu.space.hal;
            hal.bug("an illegal change of a page-table entry");
            return false;
        }
        let Some(taken) = entry.exchange(new) else {
            return false;
        };
        let gfn = entry.gfn();
        match taken {
            Taken::Plain(old) if old.is_present() => {
                self.leaf_changed(gfn, level, old, new);
                return true;
            }
            Taken::Plain(_) => {}
            Taken::Table(table) => {
                self.flush_later(gfn, level);
                self.remove_subtree(&table, gfn);
            }
        }
        if becomes == Kind::Leaf {
            self.count(level, 1);
        }
        true
    }

    /// Links `table` in place of what `entry` held, unless it has changed.
    ///
    /// # Errors
    ///
    /// The table back, and `entry` is as it is now.
    pub(super) fn link(
        &mut self,
        entry: &mut Entry<'r, H>,
        table: FreshTable<H>,
    ) -> Result<Table<'r, H>, FreshTable<H>> {
        let split = entry.kind() == Kind::Leaf;
        let linked = entry.link(table)?;
        if split {
            // The same pages, mapped in parts.
            self.count(entry.level(), -1);
            self.count(linked.level(), ENTRIES as i64);
        }
        Ok(linked)
    }

    /// Links an empty table in place of what `entry` held, and goes on to the
    /// entry there. If that has changed, `entry` is as it is now; `false` if
    /// there is no table.
    #[inline(never)]
    pub(super) fn grow(&mut self, entry: &mut Entry<'r, H>, cache: &mut TableCache<H>) -> bool {
        let Some(table) = cache.take() else {
            return false;
        };
        match self.link(entry, table) {
            Ok(child) => *entry = child.entry(entry.frame()),
            Err(table) => cache.put(table),
        }
        true
    }

    /// Replaces the leaf `entry` by `new`, which maps another page or is an
    /// MMIO entry, with the old mapping gone from every TLB in between. If it
    /// was not done, `entry` is as it is now, and what was mapped may be gone.
    #[cold]
    #[inline(never)]
    pub(super) fn replace(&mut self, entry: &mut Entry<'r, H>, new: Spte) -> bool {
        if !self.exchange(entry, Spte::FROZEN) {
            return false;
        }
        self.settle();
        *entry = entry.reload();
        self.exchange(entry, new)
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
        if let Some(log) = self.sinks.log
            && self.mmu.dirty == DirtyTracking::DirtyBit
            && self.mmu.space.format.is_dirty(old)
        {
            log.mark(gfn, level);
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
    #[inline(never)]
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
