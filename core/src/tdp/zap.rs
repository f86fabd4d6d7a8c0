//! Removing mappings.
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level};

use super::Mmu;
use super::flush::{DirtyLog, Op, Tlb};
use super::root::RootSet;
use super::table::Entry;
use super::walk::{MmuRead, MmuWrite, Mode, Span, Yielding};
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
        let roots = self.roots(space);
        self.zap_in::<MmuWrite>((tlb, log), &roots, range, yielding);
    }

    /// Empties invalid roots, in parallel with faults on valid ones.
    pub(super) fn empty(
        &self,
        sinks: (&impl Tlb, &impl DirtyLog),
        roots: &RootSet<H>,
        range: Range<Gfn>,
    ) {
        self.zap_in::<MmuRead>(sinks, roots, range, Yielding::Allowed);
    }

    /// Leaves and whole tables at the lowest level first, then the tables
    /// above that this has left empty. So no step under the lock removes more
    /// than one table's worth of leaves.
    fn zap_in<M: Mode>(
        &self,
        sinks: (&impl Tlb, &impl DirtyLog),
        roots: &RootSet<H>,
        range: Range<Gfn>,
        yielding: Yielding,
    ) {
        let mut unit = Some(Level::L2);
        while let Some(level) = unit
            && level <= self.space.format.root_level()
        {
            let floor = if level == Level::L2 { Level::L1 } else { level };
            let span = Span {
                range: range.clone(),
                floor,
                yielding,
            };
            self.walk_all::<M, _, _>(sinks, roots, span, |op, entry| {
                zap_entry(op, entry, &range, level);
            });
            unit = level.above();
        }
    }
}

/// Removes what `entry` maps, unless it is a link that reaches beyond `range`
/// or to a table larger than `unit`: then the walk goes on below it.
fn zap_entry<'r, H: Hal, T: Tlb, D: DirtyLog>(
    op: &mut Op<'r, H, T, D>,
    mut entry: Entry<'r, H>,
    range: &Range<Gfn>,
    unit: Level,
) {
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
        match op.exchange(entry, Spte::EMPTY) {
            Ok(()) => return,
            Err(now) => entry = now,
        }
    }
}
