//! Large mappings into small ones.
use core::ops::Range;

use waterbear_hal::memory::ENTRIES;
use waterbear_hal::{Gfn, Hal, Level};

use super::Mmu;
use super::cache::TableCache;
use super::flush::{DirtyLog, Op, Sinks, Tlb};
use super::table::Entry;
use super::walk::{Hold, Span, Step, Visit, Yielding};
use crate::Error;
use crate::memslot::SpaceId;
use crate::spte::Kind;

impl<'r, H: Hal> Op<'r, H> {
    /// Replaces the leaf `entry` by a table whose leaves map the same frames
    /// with the same rights. The table is filled first, so hardware sees the
    /// old mapping or the new one, and they are equal: no flush (TDP-5).
    ///
    /// `entry` is then as it is now, changed by whom ever; `false` if there was
    /// no table to use.
    #[cold]
    #[inline(never)]
    pub(super) fn split(&mut self, entry: &mut Entry<'r, H>, cache: &mut TableCache<H>) -> bool {
        let format = &self.mmu.space.format;
        let Some((below, mut table)) = entry.level().below().zip(cache.take()) else {
            return false;
        };
        for index in 0..ENTRIES {
            let Some(part) = format.part(entry.value(), entry.level(), index) else {
                return false;
            };
            table.fill(format, below, index, part);
        }
        if self.link(entry, table).is_ok() {
            *entry = entry.reload();
        }
        // Else the table is full of what the leaf was: not fit for reuse.
        true
    }

    /// Splits whatever is mapped by the entry until it is a link.
    #[inline(never)]
    pub(super) fn split_down(
        &mut self,
        entry: &mut Entry<'r, H>,
        cache: &mut TableCache<H>,
    ) -> Step {
        while entry.kind() == Kind::Leaf && entry.level() > Level::L1 {
            if !self.split(entry, cache) {
                return Step::Pause;
            }
        }
        Step::On
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
        let span = Span {
            range,
            floor: Level::L2,
            yielding: Yielding::Allowed,
            hold: Hold::Shared,
        };
        let mut cache = TableCache::new();
        let mut visit = Visit::Split(&mut cache);
        self.walk_space(Sinks::new(tlb, log), space, &span, &mut visit)
    }

    /// The first frame of `range` that is mapped, or could be, through a table
    /// of 4 KiB entries. Does not take the lock for long: what it finds may be
    /// gone when it returns.
    pub fn next_small(&self, space: SpaceId, range: Range<Gfn>) -> Option<Gfn> {
        let span = Span {
            range,
            floor: Level::L2,
            yielding: Yielding::Forbidden,
            hold: Hold::Not,
        };
        let mut visit = Visit::Small(None);
        // Fails in no visit that needs nothing.
        let _ = self.walk_space(Sinks::NONE, space, &span, &mut visit);
        match visit {
            Visit::Small(found) => found,
            _ => None,
        }
    }
}
