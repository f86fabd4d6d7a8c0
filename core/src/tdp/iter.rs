//! Walks a range of frames, entry by entry, in order of address and parents
//! first. Only walks: what to do with an entry is the caller's.
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Level};

use super::table::{Entry, Table};

/// A walk over the entries that cover `range`, from the root down to tables at
/// `floor`.
///
/// Between two steps the caller may change the entry it was given: the walk
/// reads it again before it descends.
pub struct Iter<'r, H: Hal> {
    /// The tables from the root (last) down to the current one.
    path: [Option<Table<'r, H>>; 5],
    floor: Level,
    /// The next frame to be looked at.
    at: Gfn,
    end: Gfn,
    /// The entry last returned, if the walk may descend into it.
    last: Option<Entry<'r, H>>,
    current: Table<'r, H>,
}

impl<'r, H: Hal> Iter<'r, H> {
    /// A walk from the table `root`, which spans all of `range`.
    pub fn new(root: Table<'r, H>, range: Range<Gfn>, floor: Level) -> Self {
        let mut path = [None; 5];
        path[root.level() as usize - 1] = Some(root);
        Self {
            path,
            floor,
            at: range.start,
            end: range.end,
            last: None,
            current: root,
        }
    }

    /// Everything before this frame has been visited, apart from what was
    /// below the entry last returned.
    pub fn position(&self) -> Gfn {
        self.at
    }

    /// Goes on from `last`: into its table if it has one, else to the entry
    /// after it, up through parents where a table ends.
    #[inline]
    fn step(&mut self, last: Entry<'r, H>) {
        let level = last.level();
        if level > self.floor
            && let Some(child) = last.reload().child()
        {
            self.path[child.level() as usize - 1] = Some(child);
            self.current = child;
            return;
        }
        self.at = last.gfn().add(level.pages());
        let mut level = level;
        while self.at.index(level) == 0 {
            let Some((above, parent)) = level
                .above()
                .and_then(|above| Some((above, self.path[above as usize - 1]?)))
            else {
                break;
            };
            level = above;
            self.current = parent;
        }
    }
}

impl<'r, H: Hal> Iterator for Iter<'r, H> {
    type Item = Entry<'r, H>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'r, H>> {
        if let Some(last) = self.last.take() {
            self.step(last);
        }
        if self.at >= self.end {
            return None;
        }
        let entry = self.current.entry(self.at);
        self.last = Some(entry);
        Some(entry)
    }
}
