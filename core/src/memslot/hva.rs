//! The index by host address.
//!
//! Slots may share host memory, so ranges overlap. The index is an array in
//! order of the ranges' starts, read as a balanced tree: the root of a piece
//! of the array is its middle. Each element also keeps the largest end in the
//! piece whose root it is, so a search leaves out pieces that end too early.
use core::ops::Range;

use waterbear_hal::{Hal, Hva};

use crate::Error;
use crate::mem::{Heap, Vec, edited};

use super::slot::Slot;

/// Deeper than a tree of 2^16 elements, one pending piece per level.
const DEPTH: usize = 20;

/// One slot's range of host addresses.
#[derive(Clone, Copy)]
struct Span {
    start: Hva,
    end: Hva,
    /// The largest `end` in the piece whose root this is.
    max_end: Hva,
    id: u16,
}

/// Slot ids by range of host addresses.
pub(super) struct HvaIndex<H: Hal> {
    spans: Vec<Span, H>,
}

impl<H: Hal> HvaIndex<H> {
    /// An index of nothing. Does not allocate.
    pub(super) fn new(hal: &H) -> Self {
        Self {
            spans: Vec::new_in(Heap(hal.clone())),
        }
    }

    /// The index without the slot `old`, and with `new`. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub(super) fn with(
        &self,
        hal: &H,
        old: Option<&Slot<H>>,
        new: Option<&Slot<H>>,
    ) -> Result<Self, Error> {
        let place = |start| self.spans.partition_point(|span| span.start < start);
        // Among those that begin at the same address the order does not matter.
        let without = old.and_then(|old| {
            let first = place(old.hva);
            let mut spans = self.spans.iter().skip(first);
            Some(first + spans.position(|span| u32::from(span.id) == old.id)?)
        });
        let add = new.map(|new| {
            let span = Span {
                start: new.hva,
                end: new.hva_end(),
                max_end: new.hva_end(),
                // Ids are below `MAX_SLOTS`.
                id: new.id as u16,
            };
            (place(new.hva), span)
        });
        let mut spans = edited(hal, &self.spans, without, add)?;
        set_max_ends(&mut spans);
        Ok(Self { spans })
    }

    /// The ids of the slots that have a byte in the range.
    pub(super) fn hits(&self, range: Range<Hva>) -> Hits<'_> {
        let mut hits = Hits {
            spans: &self.spans,
            range,
            pending: [(0, 0); DEPTH],
            depth: 0,
            steps: 0,
        };
        if hits.range.start < hits.range.end {
            hits.push(0, self.spans.len());
        }
        hits
    }
}

/// Sets `max_end` in a piece and returns the root's. Recurses as deep as the
/// tree, at most 16.
fn set_max_ends(spans: &mut [Span]) -> Hva {
    let (left, rest) = spans.split_at_mut(spans.len() / 2);
    let Some((root, right)) = rest.split_first_mut() else {
        return Hva(0);
    };
    let below = set_max_ends(left).max(set_max_ends(right));
    root.max_end = root.end.max(below);
    root.max_end
}

/// What a search found so far, and where it goes on.
pub(super) struct Hits<'a> {
    spans: &'a [Span],
    range: Range<Hva>,
    pending: [(u16, u16); DEPTH],
    depth: usize,
    steps: usize,
}

impl Hits<'_> {
    fn push(&mut self, start: usize, end: usize) {
        if start < end
            && let Some(place) = self.pending.get_mut(self.depth)
        {
            // A set has fewer than 2^16 slots.
            *place = (start as u16, end as u16);
            self.depth += 1;
        }
    }

    fn pop(&mut self) -> Option<(usize, usize)> {
        self.depth = self.depth.checked_sub(1)?;
        let &(start, end) = self.pending.get(self.depth)?;
        Some((start.into(), end.into()))
    }

    /// How many elements the search has looked at.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }
}

impl Iterator for Hits<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        loop {
            let (start, end) = self.pop()?;
            let middle = start + (end - start) / 2;
            let &root = self.spans.get(middle)?;
            self.steps += 1;
            if root.max_end <= self.range.start {
                continue;
            }
            // To the right everything starts at or after the root.
            if root.start < self.range.end {
                self.push(middle + 1, end);
            }
            self.push(start, middle);
            if root.start < self.range.end && self.range.start < root.end {
                return Some(root.id);
            }
        }
    }
}
