//! Removing mappings.
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level};

use super::Mmu;
use super::flush::{DirtyLog, Op, Sinks, Tlb};
use super::table::Entry;
use super::walk::{Hold, Span, Visit, Yielding};
use crate::memslot::SpaceId;
use crate::spte::{Kind, Spte};

impl<H: Hal> Mmu<H> {
    /// Removes everything that is mapped in `range` of an address space. A
    /// large mapping that only touches the range goes as a whole. When this
    /// returns no vCPU can reach what was mapped. May sleep if `yielding` says
    /// so.
    pub fn zap(
        &self,
        tlb: &impl Tlb,
        log: &impl DirtyLog,
        space: SpaceId,
        range: Range<Gfn>,
        yielding: Yielding,
    ) {
        self.zap_in(Sinks::new(tlb, log), Hold::Alone, space, range, yielding);
    }

    /// Leaves and whole tables at the lowest level first, then the tables
    /// above that this has left empty. So no step under the lock removes more
    /// than one table's worth of leaves.
    #[inline(never)]
    pub(super) fn zap_in(
        &self,
        sinks: Sinks<'_>,
        hold: Hold,
        space: SpaceId,
        range: Range<Gfn>,
        yielding: Yielding,
    ) {
        let roots = self.roots(space);
        let mut span = Span {
            range,
            floor: Level::L1,
            yielding,
            hold,
        };
        let mut unit = Some(Level::L2);
        while let Some(level) = unit
            && level <= self.space.format.root_level()
        {
            // Fails in no visit that needs nothing.
            let _ = self.walk(sinks, &roots, &span, &mut Visit::Zap(level));
            unit = level.above();
            span.floor = unit.unwrap_or(level);
        }
    }
}

impl<'r, H: Hal> Op<'r, H> {
    /// Removes what `entry` maps, unless it is a link that reaches beyond
    /// `range` or to a table larger than `unit`: then the walk goes on below
    /// it.
    #[inline(always)]
    pub(super) fn zap(&mut self, entry: &mut Entry<'r, H>, range: &Range<Gfn>, unit: Level) {
        loop {
            match entry.kind() {
                Kind::Empty | Kind::Frozen => return,
                Kind::Table => {
                    let end = entry.gfn().add(entry.level().pages());
                    let inside = range.start <= entry.gfn() && end <= range.end;
                    if !inside || entry.level() > unit {
                        return;
                    }
                }
                Kind::Leaf | Kind::Mmio => {}
            }
            if self.exchange(entry, Spte::EMPTY) {
                return;
            }
        }
    }
}
