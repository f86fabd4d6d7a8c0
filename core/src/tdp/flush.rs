//! "A flush is due", as a value that cannot be lost.
use waterbear_hal::sync::atomic::Ordering;
use waterbear_hal::{Gfn, Hal, Level, Pfn, RcuGuard};

use super::Mmu;

/// Whoever can make every vCPU of a VM forget what it cached of the tables.
pub trait Tlb {
    /// Makes every vCPU forget translations of the frames from `start` to
    /// before `end`, and returns when none can use them any more. Called under
    /// `mmu_lock` and inside an RCU section: spins, does not sleep, does not
    /// allocate.
    fn flush(&self, start: Gfn, end: Gfn);

    /// Makes every vCPU let go of its root before it enters the guest again.
    /// Called under `mmu_lock`, like `flush`.
    fn reload_roots(&self);
}

/// Whoever keeps the log of pages that the guest wrote to.
pub trait DirtyLog {
    /// The guest wrote to frames that a leaf at `level` from `gfn` on maps. A
    /// no-op where no log is kept. Any context.
    fn mark(&self, gfn: Gfn, level: Level);

    /// The log, unless none is kept: then nobody is called for each page.
    fn kept(&self) -> Option<&dyn DirtyLog>
    where
        Self: Sized,
    {
        Some(self)
    }
}

/// Nobody keeps a log.
impl DirtyLog for () {
    fn mark(&self, _gfn: Gfn, _level: Level) {}

    fn kept(&self) -> Option<&dyn DirtyLog> {
        None
    }
}

/// Who is told what an operation does. By reference, so that operations are
/// compiled once; a flush waits for other CPUs, and what is logged is logged
/// once.
#[derive(Clone, Copy)]
pub(super) struct Sinks<'a> {
    tlb: &'a dyn Tlb,
    pub(super) log: Option<&'a dyn DirtyLog>,
}

impl<'a> Sinks<'a> {
    /// For operations that change nothing.
    pub(super) const NONE: Sinks<'static> = Sinks {
        tlb: &Nobody,
        log: None,
    };

    /// These two.
    #[inline(always)]
    pub(super) fn new(tlb: &'a impl Tlb, log: &'a impl DirtyLog) -> Self {
        Self {
            tlb,
            log: log.kept(),
        }
    }

    /// The same with another log.
    pub(super) fn logging(self, log: Option<&'a dyn DirtyLog>) -> Self {
        Self { log, ..self }
    }

    /// Every vCPU lets go of its root.
    pub(super) fn reload_roots(&self) {
        self.tlb.reload_roots();
    }
}

/// Whose TLB nothing is in.
struct Nobody;

impl Tlb for Nobody {
    fn flush(&self, _start: Gfn, _end: Gfn) {}
    fn reload_roots(&self) {}
}

/// How many page references an operation collects before it flushes and
/// releases them, on hosts without notifications.
const PAGES: usize = 64;

/// What an operation on the tables still owes: a TLB flush, page references to
/// give back after it, and its share of the statistics.
///
/// It borrows the guard of the RCU section, so it is settled before the
/// section ends and before the lock is dropped (TDP-6). Dropping it with a
/// flush due is a bug of ours: it is reported, and made good.
#[must_use = "a flush may be due"]
pub struct Op<'r, H: Hal> {
    pub(super) mmu: &'r Mmu<H>,
    pub(super) sinks: Sinks<'r>,
    /// The lock is held for reading: others change entries at the same time.
    pub(super) shared: bool,
    /// The frames to flush; empty if no flush is due.
    due: (Gfn, Gfn),
    /// References to give back, made room for when the first one comes: most
    /// operations and most hosts have none.
    pages: Option<[Pfn; PAGES]>,
    held: usize,
    mapped: [i64; 3],
}

impl<'r, H: Hal> Op<'r, H> {
    #[inline(always)]
    pub(super) fn new(
        mmu: &'r Mmu<H>,
        sinks: Sinks<'r>,
        _rcu: &'r RcuGuard<'_, H>,
        shared: bool,
    ) -> Self {
        Self {
            mmu,
            sinks,
            shared,
            due: NOTHING,
            pages: None,
            held: 0,
            mapped: [0; 3],
        }
    }

    /// A flush of what an entry at `level` covers is due.
    #[inline(always)]
    pub(super) fn flush_later(&mut self, gfn: Gfn, level: Level) {
        let end = gfn.add(level.pages());
        // Most walks rise, so most of the time one of the two changes.
        if gfn < self.due.0 {
            self.due.0 = gfn;
        }
        if end > self.due.1 {
            self.due.1 = end;
        }
    }

    /// Counts a leaf that was mapped (1) or removed (-1).
    #[inline(always)]
    pub(super) fn count(&mut self, level: Level, leaves: i64) {
        if let Some(mapped) = self.mapped.get_mut(level as usize - 1) {
            *mapped += leaves;
        }
    }

    /// The reference to `pfn` is given back once no TLB holds the page.
    #[inline(always)]
    pub(super) fn release_later(&mut self, pfn: Pfn) {
        if H::HAS_NOTIFIER {
            return;
        }
        if self.held == PAGES {
            self.settle();
        }
        let pages = self.pages.get_or_insert([Pfn(0); PAGES]);
        pages[self.held] = pfn;
        self.held += 1;
    }

    /// Flushes if a flush is due, and then gives back what waited for it.
    pub(super) fn settle(&mut self) {
        if self.is_due() {
            let (start, end) = core::mem::replace(&mut self.due, NOTHING);
            self.sinks.tlb.flush(start, end);
        }
        let held = core::mem::take(&mut self.held);
        for &pfn in self.pages.iter().flatten().take(held) {
            // The guest may have written through the mapping at any time.
            self.mmu.space.hal.release(pfn, true);
        }
    }

    #[cold]
    #[inline(never)]
    fn forgotten(&mut self) {
        self.mmu.space.hal.bug("a TLB flush was forgotten");
        self.settle();
    }

    fn is_due(&self) -> bool {
        self.due.0 < self.due.1
    }

    /// Settles everything. Ends every operation.
    ///
    /// By reference: moving it would copy the room for the references.
    #[inline(never)]
    pub(super) fn finish(&mut self) {
        self.settle();
        for (total, mapped) in self.mmu.mapped.iter().zip(&mut self.mapped) {
            if *mapped != 0 {
                // Relaxed: a statistic.
                let leaves = core::mem::take(mapped);
                total.fetch_add(leaves, Ordering::Relaxed);
                if leaves < 0 {
                    let gone = leaves.unsigned_abs();
                    self.mmu.zapped.fetch_add(gone, Ordering::Relaxed);
                }
            }
        }
    }
}

const NOTHING: (Gfn, Gfn) = (Gfn(u64::MAX), Gfn(0));

impl<H: Hal> Drop for Op<'_, H> {
    fn drop(&mut self) {
        if self.is_due() {
            self.forgotten();
        }
    }
}
