//! Long walks: in sections, each under the lock and inside an RCU section,
//! settled before it ends, and started again where it stopped (TDP-6, TDP-7).
//!
//! There is one walk, and what it does with the entries that it meets is a
//! value: so all of it is compiled once, and no entry costs an indirect call.
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::cache::TableCache;
use super::flush::{Op, Sinks};
use super::iter::Iter;
use super::root::RootSet;
use super::table::Entry;
use super::{Mmu, State};
use crate::Error;
use crate::lock::{ReadGuard, WriteGuard};
use crate::memslot::SpaceId;

/// How a walk holds `mmu_lock`: the rules for changing entries depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// For reading: others change entries at the same time.
    Shared,
    /// For writing.
    Alone,
    /// Not at all: the walk changes nothing.
    Not,
}

/// What shows how the lock is held.
enum Held<'a, H: Hal> {
    Shared(#[expect(dead_code, reason = "held, not looked at")] ReadGuard<'a, H, State<H>>),
    Alone(#[expect(dead_code, reason = "held, not looked at")] WriteGuard<'a, H, State<H>>),
    Not,
}

/// What is done to the entries of a walk.
pub(super) enum Visit<'a, H: Hal> {
    /// Removes what they map, tables up to those behind entries of this level
    /// included.
    Zap(Level),
    /// Makes them report their next write.
    Clean,
    /// Clears their age. Whether one was young.
    Age(bool),
    /// Whether one is young.
    Look(bool),
    /// Splits them down to 4 KiB, with these tables.
    Split(&'a mut TableCache<H>),
    /// The first frame that is reached through a table of 4 KiB entries.
    Small(Option<Gfn>),
}

/// What a visit says about going on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Go on.
    On,
    /// End the section here and come back to this entry: the visit needs
    /// something that must not be had under the lock.
    Pause,
    /// This root has shown what there was to see.
    Stop,
}

impl<H: Hal> Visit<'_, H> {
    #[inline(always)]
    fn visit<'r>(
        &mut self,
        op: &mut Op<'r, H>,
        entry: &mut Entry<'r, H>,
        range: &Range<Gfn>,
    ) -> Step {
        match self {
            Visit::Zap(unit) => op.zap(entry, range, *unit),
            Visit::Clean => op.clean_entry(entry, range),
            Visit::Age(young) => *young |= op.age(entry),
            Visit::Look(young) => {
                if op.is_young(entry) {
                    *young = true;
                    return Step::Stop;
                }
            }
            Visit::Split(cache) => return op.split_down(entry, cache),
            Visit::Small(found) => {
                if entry.level() == Level::L2 && entry.child().is_some() {
                    *found = Some(found.map_or(entry.frame(), |other| other.min(entry.frame())));
                    return Step::Stop;
                }
            }
        }
        Step::On
    }
}

/// Whether a walk lets go of the lock when somebody waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Yielding {
    /// It does, and may sleep between sections.
    Allowed,
    /// It must not sleep, so it goes on to the end.
    Forbidden,
}

/// What a walk covers, and how.
#[derive(Clone)]
pub(super) struct Span {
    /// The frames.
    pub(super) range: Range<Gfn>,
    /// The lowest tables that are visited.
    pub(super) floor: Level,
    /// Whether it lets go of the lock.
    pub(super) yielding: Yielding,
    /// How it holds the lock.
    pub(super) hold: Hold,
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
    /// Visits every entry that covers the span in each root of an address
    /// space.
    ///
    /// # Errors
    ///
    /// As [`walk`](Mmu::walk).
    pub(super) fn walk_space(
        &self,
        sinks: Sinks<'_>,
        space: SpaceId,
        span: &Span,
        visit: &mut Visit<'_, H>,
    ) -> Result<(), Error> {
        self.walk(sinks, &self.roots(space), span, visit)
    }

    /// Visits every entry that covers the span in each of `roots`. Between
    /// sections a visit gets what it paused for, without the lock.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`] from there.
    #[inline(never)]
    pub(super) fn walk(
        &self,
        sinks: Sinks<'_>,
        roots: &RootSet<H>,
        span: &Span,
        visit: &mut Visit<'_, H>,
    ) -> Result<(), Error> {
        let end = span.range.end.min(self.space.format.end());
        let stride = if span.floor == Level::L1 { STRIDE } else { 1 };
        for root in roots.iter().flatten() {
            let mut from = span.range.start;
            while from < end {
                from = {
                    let _guard = match span.hold {
                        Hold::Shared => Held::Shared(self.lock.read()),
                        Hold::Alone => Held::Alone(self.lock.write()),
                        Hold::Not => Held::Not,
                    };
                    let rcu = RcuGuard::new(&self.space.hal);
                    let mut op = Op::new(self, sinks, &rcu, span.hold != Hold::Alone);
                    let mut iter = Iter::new(root.walk(&self.space, &rcu), from..end, span.floor);
                    let mut budget = stride;
                    let stopped = loop {
                        let Some(mut entry) = iter.next_entry() else {
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
                        match visit.visit(&mut op, &mut entry, &span.range) {
                            Step::On => {}
                            Step::Pause => break iter.position(),
                            Step::Stop => break end,
                        }
                    };
                    op.finish();
                    stopped
                };
                if from < end {
                    if let Visit::Split(cache) = visit {
                        cache.top_up(&self.space.hal)?;
                    }
                    self.space.hal.yield_now();
                }
            }
        }
        Ok(())
    }
}
