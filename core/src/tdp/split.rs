//! Large mappings into small ones.
use core::ops::Range;

use waterbear_hal::memory::ENTRIES;
use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::Mmu;
use super::cache::TableCache;
use super::flush::{DirtyLog, Op, Tlb};
use super::iter::Iter;
use super::table::Entry;
use super::walk::{MmuRead, Span, Step, Yielding};
use crate::Error;
use crate::memslot::SpaceId;
use crate::spte::Kind;

impl<'r, H: Hal, T: Tlb, D: DirtyLog> Op<'r, H, T, D> {
    /// Replaces the leaf `entry` by a table whose leaves map the same frames
    /// with the same rights. The table is filled first, so hardware sees the
    /// old mapping or the new one, and they are equal: no flush (TDP-5).
    ///
    /// Returns the entry as it is now, or `None` if there was no table to use.
    pub(super) fn split(
        &mut self,
        entry: Entry<'r, H>,
        cache: &mut TableCache<H>,
    ) -> Option<Entry<'r, H>> {
        let format = &self.mmu.space.format;
        let below = entry.level().below()?;
        let mut table = cache.take()?;
        for index in 0..ENTRIES {
            let part = format.part(entry.value(), entry.level(), index)?;
            table.fill(format, below, index, part);
        }
        match self.link(entry, table) {
            Ok(_) => Some(entry.reload()),
            // The table is full of what the leaf was: not fit for reuse.
            Err((now, _used)) => Some(now),
        }
    }
}

impl<H: Hal> Mmu<H> {
    /// Splits every large mapping that touches `range` down to 4 KiB, so that
    /// a dirty log that is about to start need not do it on faults. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; some mappings were split, and all mean the same as
    /// before.
    pub fn split_range(
        &self,
        tlb: &impl Tlb,
        log: &impl DirtyLog,
        space: SpaceId,
        range: Range<Gfn>,
    ) -> Result<(), Error> {
        let roots = self.roots(space);
        let cache = core::cell::RefCell::new(TableCache::new());
        self.walk::<MmuRead, _, _, Error>(
            (tlb, log),
            &roots,
            Span {
                range,
                floor: Level::L2,
                yielding: Yielding::Allowed,
            },
            |op, mut entry| {
                let Ok(mut cache) = cache.try_borrow_mut() else {
                    return Step::Pause;
                };
                while entry.kind() == Kind::Leaf && entry.level() > Level::L1 {
                    match op.split(entry, &mut cache) {
                        Some(now) => entry = now,
                        None => return Step::Pause,
                    }
                }
                Step::On
            },
            || match cache.try_borrow_mut() {
                Ok(mut cache) => cache.top_up(&self.space.hal),
                Err(_) => Ok(()),
            },
        )
    }
}

impl<H: Hal> Mmu<H> {
    /// The first frame of `range` that is mapped, or could be, through a table
    /// of 4 KiB entries. Does not take the lock for long: what it finds may be
    /// gone when it returns.
    pub fn next_small(&self, space: SpaceId, range: Range<Gfn>) -> Option<Gfn> {
        let end = range.end.min(self.space.format.end());
        self.roots(space)
            .iter()
            .flatten()
            .filter_map(|root| {
                let rcu = RcuGuard::new(&self.space.hal);
                let table = root.walk(&self.space, &rcu);
                let mut iter = Iter::new(table, range.start..end, Level::L2);
                while let Some(entry) = iter.next() {
                    if entry.level() == Level::L2 && entry.kind() == Kind::Table {
                        return Some(iter.position());
                    }
                }
                None
            })
            .min()
    }
}
