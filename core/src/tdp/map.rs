//! A fault installs a mapping, in parallel with other faults (TDP-2).
use core::ops::Range;

use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal, Level, Pfn, RcuGuard};

use super::cache::TableCache;
use super::flush::{DirtyLog, Op, Sinks, Tlb};
use super::invalidate::Snapshot;
use super::root::Root;
use super::table::{Entry, Table};
use super::{DirtyTracking, Mmu};
use crate::spte::{EntryFormat, Kind, LeafRights, Spte};

/// What a fault wants.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The frame that faulted.
    pub gfn: Gfn,
    /// The page behind that frame.
    pub pfn: Pfn,
    /// The level of the leaf: decided under the lock.
    pub level: Level,
    /// What the leaf is to allow: decided under the lock.
    pub rights: LeafRights,
    /// The access was a write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub exec: bool,
}

impl Goal {
    /// The leaf.
    #[inline(always)]
    pub(super) fn leaf(&self, format: &EntryFormat) -> Spte {
        let pfn = self.pfn.align_down(self.level);
        format.leaf(pfn, self.level, self.rights)
    }

    /// The frames that the leaf covers.
    pub(super) fn frames(&self) -> Range<Gfn> {
        let start = self.gfn.align_down(self.level);
        start..start.add(self.level.pages())
    }
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapped {
    /// A leaf now maps the page that was not mapped there before.
    Installed,
    /// The page was mapped and now allows the access.
    Upgraded,
    /// The page was mapped and allowed the access: another vCPU was faster.
    Spurious,
    /// Somebody is removing the entry, or a table was missing: try again.
    Retry,
}

impl<H: Hal> Mmu<H> {
    /// Installs the page that was found after `snapshot` was taken, unless it
    /// may be stale or the root is: then nothing is done and the answer is
    /// [`Mapped::Retry`]. What to install is decided by `decide`, under the
    /// lock. Unless it is to be tried again, the level is that of the mapping
    /// that is there now. Does not sleep.
    pub fn install(
        &self,
        (tlb, log): (&impl Tlb, &impl DirtyLog),
        root: &Root<H>,
        cache: &mut TableCache<H>,
        snapshot: Snapshot,
        decide: impl FnOnce() -> Goal,
    ) -> (Mapped, Level) {
        let state = self.lock.read();
        let goal = decide();
        // TDP-8, TDP-9: the checks that count, with the lock held that
        // invalidations take for writing. Of all frames that the leaf would
        // map: those beside the one that faulted may be the ones that change.
        let invalid = root.is_invalid() && !removed(Part::RootCheck);
        if invalid || self.is_stale(&state, snapshot, &goal.frames()) {
            return (Mapped::Retry, Level::L1);
        }
        let rcu = RcuGuard::new(&self.space.hal);
        let mut op = Op::new(self, Sinks::new(tlb, log), &rcu, true);
        let mapped = op.map(root.walk(&self.space, &rcu), cache, &goal);
        op.finish();
        mapped
    }
}

impl<'r, H: Hal> Op<'r, H> {
    /// Walks from `root` to the level of the goal, adds the tables that are
    /// missing, and installs the leaf. On a lost race nothing was written and
    /// the walk goes on with what it saw.
    fn map(
        &mut self,
        root: Table<'r, H>,
        cache: &mut TableCache<H>,
        goal: &Goal,
    ) -> (Mapped, Level) {
        let mut entry = root.entry(goal.gfn);
        loop {
            while entry.level() > goal.level
                && let Some(child) = entry.child()
            {
                entry = child.entry(goal.gfn);
            }
            let done = if entry.level() == goal.level {
                self.install(&mut entry, goal)
            } else {
                self.descend(&mut entry, cache, goal)
            };
            if let Some(mapped) = done {
                return (mapped, entry.level());
            }
        }
    }

    /// Makes a link of an entry that was none, or finds that this is the end.
    /// `None` when the walk goes on with what `entry` is then.
    fn descend(
        &mut self,
        entry: &mut Entry<'r, H>,
        cache: &mut TableCache<H>,
        goal: &Goal,
    ) -> Option<Mapped> {
        let goes_on = match entry.kind() {
            Kind::Leaf if self.is_enough(entry, goal) => return Some(Mapped::Spurious),
            Kind::Leaf => self.split(entry, cache),
            Kind::Empty | Kind::Mmio => self.grow(entry, cache),
            // The walk has followed links as far as they lead.
            Kind::Frozen | Kind::Table => false,
        };
        (!goes_on).then_some(Mapped::Retry)
    }

    /// The leaf itself, and the mark that it may be written now. The mark comes
    /// after the entry, never before it: a collector that took the mark first
    /// would have found nothing to protect (TDP-13). `None` as in `descend`.
    fn install(&mut self, entry: &mut Entry<'r, H>, goal: &Goal) -> Option<Mapped> {
        if removed(Part::MarkAfterWrite) {
            self.mmu.mark_written(self.sinks.log, goal);
            return self.put_leaf(entry, goal);
        }
        let mapped = self.put_leaf(entry, goal)?;
        if matches!(mapped, Mapped::Installed | Mapped::Upgraded) {
            self.mmu.mark_written(self.sinks.log, goal);
        }
        Some(mapped)
    }

    /// The leaf itself.
    fn put_leaf(&mut self, entry: &mut Entry<'r, H>, goal: &Goal) -> Option<Mapped> {
        let format = &self.mmu.space.format;
        let mut new = goal.leaf(format);
        let mut mapped = Mapped::Installed;
        match entry.kind() {
            Kind::Frozen => return Some(Mapped::Retry),
            Kind::Empty | Kind::Mmio | Kind::Table => {}
            Kind::Leaf if self.is_enough(entry, goal) => return Some(Mapped::Spurious),
            Kind::Leaf if format.pfn(entry.value()) == format.pfn(new) => {
                // A dirty bit that hardware has set stays.
                if format.is_dirty(entry.value()) && format.is_writable(new) {
                    new = format.made_writable(new);
                }
                mapped = Mapped::Upgraded;
            }
            Kind::Leaf => return self.replace(entry, new).then_some(mapped),
        }
        self.exchange(entry, new).then_some(mapped)
    }

    /// Whether the leaf serves the access as it is.
    fn is_enough(&self, entry: &Entry<'r, H>, goal: &Goal) -> bool {
        let format = &self.mmu.space.format;
        let offset = goal.gfn.0 - entry.gfn().0;
        format.allows(entry.value(), goal.write, goal.exec)
            && format.pfn(entry.value()).add(offset) == goal.pfn
    }
}

impl<H: Hal> Mmu<H> {
    /// A page that became writable may be written from now on without another
    /// fault. Where dirty bits are scanned for, the entry itself is the mark.
    #[inline(always)]
    pub(super) fn mark_written(&self, log: Option<&dyn DirtyLog>, goal: &Goal) {
        if let Some(log) = log
            && goal.rights.write
            && self.dirty == DirtyTracking::WriteProtect
        {
            log.mark(goal.gfn, Level::L1);
        }
    }
}
