//! A fault that finds every table there and nothing mapped, served without waiting for anybody: the
//! vCPU need not leave guest mode for it.
use waterbear_hal::sync::atomic::Ordering;
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Hal, RcuGuard};

use super::Mmu;
use super::flush::{DirtyLog, Tlb};
use super::invalidate::Snapshot;
use super::map::Goal;
use super::root::Root;
use crate::spte::Kind;

impl<H: Hal> Mmu<H> {
    /// As [`install`](Mmu::install), where that needs neither a table nor a flush nor a wait for
    /// the lock; says whether it was done. Neither spins nor sleeps; interrupts may be off.
    ///
    /// A writer that waits for the lock waits for this as for any other reader. A writer that holds
    /// it may wait for this CPU to take an interrupt: so this must not wait for the lock.
    pub fn try_install(
        &self,
        (_, log): (&impl Tlb, &impl DirtyLog),
        root: &Root<H>,
        snapshot: Snapshot,
        decide: impl FnOnce() -> Goal,
    ) -> bool {
        let Some(state) = self.lock.try_read() else {
            return false;
        };
        let goal = decide();
        // As in `install`.
        let invalid = root.is_invalid() && !removed(Part::RootCheck);
        if invalid || self.is_stale(&state, snapshot, &goal.frames()) {
            return false;
        }
        let rcu = RcuGuard::new(&self.space.hal);
        let mut entry = root.walk(&self.space, &rcu).entry(goal.gfn);
        while entry.level() > goal.level {
            let Some(child) = entry.child() else {
                return false;
            };
            entry = child.entry(goal.gfn);
        }
        // What was empty was in no TLB: so no flush will be due, which would wait for others.
        if entry.kind() != Kind::Empty {
            return false;
        }
        // What an operation would come to: nothing is owed but a count and a mark.
        let leaf = goal.leaf(&self.space.format);
        if entry.exchange(leaf).is_none() {
            return false;
        }
        if let Some(mapped) = self.mapped.get(entry.level() as usize - 1) {
            // Relaxed: a statistic.
            mapped.fetch_add(1, Ordering::Relaxed);
        }
        self.mark_written(log.kept(), &goal);
        true
    }
}
