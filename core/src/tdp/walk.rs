//! Long walks: in sections, each under the lock and inside an RCU section,
//! settled before it ends, and started again where it stopped (TDP-6, TDP-7).
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::flush::{DirtyLog, Op, Tlb};
use super::iter::Iter;
use super::root::RootSet;
use super::table::Entry;
use super::{Mmu, State};
use crate::lock::{ReadGuard, RwLock, WriteGuard};

/// How `mmu_lock` is held: a type, because the rules for changing entries
/// depend on it.
pub trait Mode {
    /// Others change entries at the same time.
    const SHARED: bool;
    /// What shows that the lock is held.
    type Guard<'a, H: Hal>;
    /// Takes the lock.
    fn lock<H: Hal>(lock: &RwLock<H, State<H>>) -> Self::Guard<'_, H>;
}

/// Held for reading.
pub struct MmuRead;
/// Held for writing.
pub struct MmuWrite;

impl Mode for MmuRead {
    const SHARED: bool = true;
    type Guard<'a, H: Hal> = ReadGuard<'a, H, State<H>>;
    fn lock<H: Hal>(lock: &RwLock<H, State<H>>) -> Self::Guard<'_, H> {
        lock.read()
    }
}

impl Mode for MmuWrite {
    const SHARED: bool = false;
    type Guard<'a, H: Hal> = WriteGuard<'a, H, State<H>>;
    fn lock<H: Hal>(lock: &RwLock<H, State<H>>) -> Self::Guard<'_, H> {
        lock.write()
    }
}

/// What a visitor says about going on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Go on.
    On,
    /// End the section here and come back to this entry: the visitor needs
    /// something that must not be had under the lock.
    Pause,
}

/// Whether a walk lets go of the lock when somebody waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Yielding {
    /// It does, and may sleep between sections.
    Allowed,
    /// It must not sleep, so it goes on to the end.
    Forbidden,
}

/// What a walk covers.
#[derive(Clone)]
pub(super) struct Span {
    /// The frames.
    pub(super) range: Range<Gfn>,
    /// The lowest tables that are visited.
    pub(super) floor: Level,
    /// Whether it lets go of the lock.
    pub(super) yielding: Yielding,
}

/// How many entries of the lowest tables are visited between two looks at who
/// waits. A look follows every larger entry: what is done to it may be done to
/// a whole table below.
const STRIDE: u32 = if cfg!(any(loom, debug_assertions)) {
    1
} else {
    64
};

impl<H: Hal> Mmu<H> {
    /// Visits every entry that covers the span in each of `roots`. Between
    /// sections `pause` runs without the lock; it may sleep, and may end the
    /// walk with an error.
    ///
    /// # Errors
    ///
    /// What `pause` returned.
    pub(super) fn walk<M: Mode, T: Tlb, D: DirtyLog, E>(
        &self,
        (tlb, log): (&T, &D),
        roots: &RootSet<H>,
        span: Span,
        mut visit: impl for<'r> FnMut(&mut Op<'r, H, T, D>, Entry<'r, H>) -> Step,
        mut pause: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let end = span.range.end.min(self.space.format.end());
        for root in roots.iter().flatten() {
            let stride = if span.floor == Level::L1 { STRIDE } else { 1 };
            let mut from = span.range.start;
            while from < end {
                let guard = M::lock(&self.lock);
                let rcu = RcuGuard::new(&self.space.hal);
                let mut op = Op::new(self, tlb, log, &rcu, M::SHARED);
                let mut iter = Iter::new(root.walk(&self.space, &rcu), from..end, span.floor);
                let mut budget = stride;
                let stopped = loop {
                    let Some(entry) = iter.next() else {
                        break end;
                    };
                    budget -= 1;
                    if budget == 0 {
                        budget = stride;
                        // Only past `from`: each section makes progress (TDP-7).
                        if span.yielding == Yielding::Allowed
                            && iter.position() > from
                            && (self.lock.is_contended() || self.space.hal.should_yield())
                        {
                            break iter.position();
                        }
                    }
                    if visit(&mut op, entry) == Step::Pause {
                        break iter.position();
                    }
                };
                op.finish();
                drop(op);
                drop(rcu);
                drop(guard);
                from = stopped;
                if from < end {
                    pause()?;
                    self.space.hal.yield_now();
                }
            }
        }
        Ok(())
    }

    /// As [`walk`](Mmu::walk), for visitors that need nothing between
    /// sections.
    pub(super) fn walk_all<M: Mode, T: Tlb, D: DirtyLog>(
        &self,
        sinks: (&T, &D),
        roots: &RootSet<H>,
        span: Span,
        mut visit: impl for<'r> FnMut(&mut Op<'r, H, T, D>, Entry<'r, H>),
    ) {
        let Ok(()) = self.walk::<M, T, D, core::convert::Infallible>(
            sinks,
            roots,
            span,
            |op, entry| {
                visit(op, entry);
                Step::On
            },
            || Ok(()),
        );
    }
}
