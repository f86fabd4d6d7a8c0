//! The lockless fast path: gives a leaf back what it may have (TDP-11).
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::Mmu;
use super::flush::DirtyLog;
use super::root::Root;
use super::table::Entry;
use crate::spte::Kind;

/// What the fast path found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FastFault {
    /// The access is allowed now.
    Fixed,
    /// The fault needs the lock.
    Slow,
}

/// An access to guest memory that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// It writes.
    pub write: bool,
    /// It fetches an instruction.
    pub exec: bool,
    /// It is a page walk of the guest's own: with accessed and dirty bits on,
    /// hardware treats those as writes.
    pub guest_walk: bool,
    /// Hardware says that nothing was mapped there at all: then the fast path has nothing to give
    /// back. A hint; `false` where hardware does not tell.
    pub absent: bool,
}

impl<H: Hal> Mmu<H> {
    /// Makes the leaf at `gfn` allow the access if that needs no decision: W
    /// where the entry says `MMU_WRITABLE`, or permissions that access
    /// tracking has put aside. One compare-exchange, inside an RCU section,
    /// without `mmu_lock`. Any context.
    ///
    /// `logging` says that `log` keeps a dirty log for the page: then a large
    /// leaf is not made writable, because its parts are logged one by one.
    pub fn fast_fault(
        &self,
        root: &Root<H>,
        gfn: Gfn,
        access: Access,
        log: &impl DirtyLog,
        logging: bool,
    ) -> FastFault {
        let format = &self.space.format;
        let rcu = RcuGuard::new(&self.space.hal);
        let mut entry = self.leaf(root, &rcu, gfn);
        // A lost race shows a new value; a handful of them is enough before
        // the lock decides.
        for _ in 0..4 {
            if entry.kind() != Kind::Leaf {
                return FastFault::Slow;
            }
            let mut new = entry.value();
            if format.is_access_tracked(new) {
                new = format.rejuvenated(new);
            }
            let gives_write = access.write && !format.is_writable(new);
            if gives_write {
                if !new.is_mmu_writable() || (logging && entry.level() > Level::L1) {
                    return FastFault::Slow;
                }
                new = format.made_writable(new);
            }
            if !format.allows(new, access.write, access.exec) {
                return FastFault::Slow;
            }
            if new == entry.value() {
                return FastFault::Fixed;
            }
            if gives_write && removed(Part::MarkAfterWrite) {
                log.mark(gfn, Level::L1);
            }
            // Adds permissions to a leaf and takes none, so nothing is owed:
            // no flush, no statistics. W was off, so no write can be missed
            // before the mark below.
            let changed = if removed(Part::FastPathCas) {
                let _ = entry.swap(new);
                true
            } else {
                entry.exchange(new).is_some()
            };
            if changed {
                if gives_write && !removed(Part::MarkAfterWrite) {
                    log.mark(gfn, Level::L1);
                }
                return FastFault::Fixed;
            }
        }
        FastFault::Slow
    }

    /// The lowest entry on the way to `gfn`.
    #[inline(always)]
    pub(super) fn leaf<'r>(
        &'r self,
        root: &'r Root<H>,
        rcu: &'r RcuGuard<'_, H>,
        gfn: Gfn,
    ) -> Entry<'r, H> {
        let mut entry = root.walk(&self.space, rcu).entry(gfn);
        while let Some(child) = entry.child() {
            entry = child.entry(gfn);
        }
        entry
    }
}
