//! Walks a range of frames, entry by entry, in order of address and parents
//! first. Only walks: what to do with an entry is the caller's.
use core::ops::Range;

use waterbear_hal::memory::ENTRY_BITS;
use waterbear_hal::{Gfn, Hal, Level};

use super::table::{Entry, Table};

/// A walk over the entries that cover `range` and are not empty, from the root
/// down to tables at `floor`.
///
/// Between two steps the caller may change the entry it was given: the walk
/// reads it again before it descends.
pub struct Iter<'r, H: Hal> {
    root: Table<'r, H>,
    floor: Level,
    /// The next frame to be looked at.
    at: Gfn,
    end: Gfn,
    current: Table<'r, H>,
    /// The entry at `at` was returned: the walk goes on from it.
    visited: bool,
}

impl<'r, H: Hal> Iter<'r, H> {
    /// A walk from the table `root`, which spans all of `range`.
    pub fn new(root: Table<'r, H>, range: Range<Gfn>, floor: Level) -> Self {
        Self {
            root,
            floor,
            at: range.start,
            end: range.end,
            current: root,
            visited: false,
        }
    }

    /// Everything before this frame has been visited, apart from what was
    /// below the entry last returned.
    #[inline(always)]
    pub fn position(&self) -> Gfn {
        self.at
    }

    /// The next entry.
    #[inline(always)]
    pub fn next_entry(&mut self) -> Option<Entry<'r, H>> {
        if self.visited {
            self.visited = false;
            self.step();
        }
        while self.at < self.end {
            let Some(entry) = self.current.next_filled(self.at) else {
                let span = self.current.level().pages() << ENTRY_BITS;
                self.at = Gfn((self.at.0 | (span - 1)) + 1);
                self.ascend();
                continue;
            };
            self.at = entry.frame();
            if self.at < self.end {
                self.visited = true;
                return Some(entry);
            }
        }
        None
    }

    /// Goes on from the entry at `at`: into its table if it has one, else to
    /// the entry after it, up through parents where a table ends.
    #[inline(always)]
    fn step(&mut self) {
        let level = self.current.level();
        if level > self.floor
            && let Some(child) = self.current.entry(self.at).child()
        {
            self.current = child;
            return;
        }
        self.at = self.at.align_down(level).add(level.pages());
        if self.at.index(level) == 0 {
            self.ascend();
        }
    }

    /// Goes up from a table that has ended at `at`, to the first that has not:
    /// down from the root, as far as links lead there now.
    #[cold]
    #[inline(never)]
    fn ascend(&mut self) {
        let mut level = self.current.level();
        while self.at.index(level) == 0
            && let Some(above) = level.above()
        {
            level = above;
        }
        self.current = self.root;
        while self.current.level() > level
            && let Some(child) = self.current.entry(self.at).child()
        {
            self.current = child;
        }
    }
}
