//! The translation lookaside buffer of one virtual CPU.
//!
//! It forgets nothing until it is flushed, the worst that hardware may do: so
//! a flush that is missing shows. It caches translations, and the tables above
//! them too (Intel's paging-structure caches, AMD's page walk cache). A
//! translation that was filled by a write, or whose dirty bit was set, lets
//! later writes through without a look at memory.

use std::collections::HashMap;

use waterbear_hal::{Gfn, Gpa, Level, Pfn};

use super::walk::{Fault, Start, Translation, Walker};
use super::{Access, EntryMemory, Format};

/// What a cached item belongs to and where it applies.
type Key = (Pfn, Level, Gfn);

/// A TLB.
#[derive(Clone, Debug)]
pub struct Tlb {
    walker: Walker,
    translations: HashMap<Key, Translation>,
    tables: HashMap<Key, Start>,
    cache_tables: bool,
    flushes: u64,
}

impl Tlb {
    /// An empty TLB, filled by `walker`.
    pub fn new(walker: Walker) -> Self {
        Self {
            walker,
            translations: HashMap::new(),
            tables: HashMap::new(),
            cache_tables: true,
            flushes: 0,
        }
    }

    /// Whether tables are cached besides translations. They are unless this
    /// says otherwise.
    pub fn cache_tables(mut self, yes: bool) -> Self {
        self.cache_tables = yes;
        self
    }

    /// The walker.
    pub fn walker(&self) -> &Walker {
        &self.walker
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.translations.clear();
        self.tables.clear();
        self.flushes += 1;
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// How many translations are cached.
    pub fn len(&self) -> usize {
        self.translations.len()
    }

    /// Whether no translation is cached.
    pub fn is_empty(&self) -> bool {
        self.translations.is_empty()
    }

    /// The cached translation of `gpa`, without a look at memory.
    pub fn peek(&self, root: Pfn, gpa: Gpa) -> Option<Translation> {
        let hit = |level| {
            let key = self.key(root, level, gpa);
            let cached = self.translations.get(&key)?;
            let offset = gpa.gfn().0 & (level.pages() - 1);
            Some(Translation {
                pfn: cached.pfn.add(offset),
                ..*cached
            })
        };
        Level::LEAVES.into_iter().find_map(hit)
    }

    /// Makes an access and returns the data page that it goes to.
    ///
    /// # Errors
    ///
    /// A [`Fault`]. What was cached for the address is forgotten then, as both
    /// manuals promise, so an access that is repeated sees memory.
    #[track_caller]
    pub fn access(
        &mut self,
        memory: &impl EntryMemory,
        root: Pfn,
        gpa: Gpa,
        wanted: Access,
    ) -> Result<Pfn, Fault> {
        if let Some(hit) = self.peek(root, gpa)
            && hit.allows.allows(wanted)
            && (hit.dirty || !wanted.write)
        {
            return Ok(hit.pfn);
        }
        let start = self.deepest(root, gpa);
        let mut entered = Vec::new();
        let result = self
            .walker
            .walk(memory, start, gpa, wanted, &mut |table| entered.push(table));
        match result {
            Ok(found) => {
                self.forget_translations(root, gpa);
                self.fill(root, gpa, found, &entered);
                Ok(found.pfn)
            }
            Err(fault) => {
                self.invalidate(root, gpa);
                Err(fault)
            }
        }
    }

    /// Forgets what it knows of one address, as `INVLPGA` does.
    pub fn invalidate(&mut self, root: Pfn, gpa: Gpa) {
        self.forget_translations(root, gpa);
        for level in [Level::L1, Level::L2, Level::L3, Level::L4] {
            let key = self.table_key(root, level, gpa);
            self.tables.remove(&key);
        }
    }

    fn fill(&mut self, root: Pfn, gpa: Gpa, found: Translation, entered: &[Start]) {
        let key = self.key(root, found.level, gpa);
        let first = found.pfn.align_down(found.level);
        self.translations.insert(
            key,
            Translation {
                pfn: first,
                ..found
            },
        );
        if self.cache_tables {
            for &table in entered {
                let key = self.table_key(root, table.level, gpa);
                self.tables.insert(key, table);
            }
        }
    }

    fn forget_translations(&mut self, root: Pfn, gpa: Gpa) {
        for level in Level::LEAVES {
            let key = self.key(root, level, gpa);
            self.translations.remove(&key);
        }
    }

    /// The deepest cached table on the way to `gpa`, or the root.
    fn deepest(&self, root: Pfn, gpa: Gpa) -> Start {
        let mut levels = [Level::L1, Level::L2, Level::L3, Level::L4].into_iter();
        levels
            .find_map(|level| self.tables.get(&self.table_key(root, level, gpa)).copied())
            .unwrap_or_else(|| self.walker.root(root))
    }

    fn key(&self, root: Pfn, level: Level, gpa: Gpa) -> Key {
        (self.tag(root), level, gpa.gfn().align_down(level))
    }

    /// A table at `level` spans what one entry of the level above does.
    fn table_key(&self, root: Pfn, level: Level, gpa: Gpa) -> Key {
        let above = level.above().unwrap_or(level);
        (self.tag(root), level, gpa.gfn().align_down(above))
    }

    /// Intel's caches are tagged with the root table. AMD's are tagged with an
    /// address-space number alone: a new root without a flush is not noticed.
    fn tag(&self, root: Pfn) -> Pfn {
        match self.walker.format {
            Format::Ept { .. } => root,
            Format::Npt => Pfn(0),
        }
    }
}
