//! Live page tables: the only place that follows an entry to a table.
//!
//! A table is read by other CPUs' page walkers and by faults on other CPUs at
//! any time, so nobody ever holds a `&mut` to it and every access is atomic.
//! What keeps a table readable is an RCU read section (TDP-1), and the types
//! say so: a [`Table`] and an [`Entry`] borrow the guard of the section they
//! were read in.
//!
//! # Why following an entry is sound
//!
//! An entry of kind `Table` holds the frame of a table, because
//!
//! - only [`Entry::link`] writes one, and it takes the table by value;
//! - every other write checks that it does not write one;
//! - a link is taken out by exactly one exchange, whose caller gets the table
//!   as [`Unlinked`], and that frees it after a grace period.
//!
//! A reader that found the link inside its section therefore finds the table
//! readable until the section ends: the grace period cannot have begun before
//! the exchange, and the exchange came after the section began or the reader
//! would not have found the link. Tables below an unlinked one are deferred
//! later still, by the same remover.
#![expect(unsafe_code, reason = "page tables are reached by physical address")]
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use waterbear_hal::memory::ENTRIES;
use waterbear_hal::sync::atomic::{AtomicU64, Ordering};
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal, Level, PageTable, Pfn, RcuGuard};

use crate::Error;
use crate::spte::{EntryFormat, Kind, Spte};

/// The host and the format of a VM's tables: what it takes to walk them.
pub struct Space<H: Hal> {
    /// The host that the tables live on.
    pub hal: H,
    /// What their entries look like.
    pub format: EntryFormat,
}

/// A table that was allocated and that nobody else can reach yet.
pub struct FreshTable<H: Hal> {
    hal: H,
    pfn: Pfn,
}

impl<H: Hal> FreshTable<H> {
    /// Allocates an empty table. May sleep; no spin lock, no RCU section.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            pfn: hal.alloc_table()?,
        })
    }

    /// The table's frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Gives the table to somebody else, who frees it.
    fn give_away(self) -> (H, Pfn) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither dropped nor used again, so the handle is
        // moved out once.
        let hal = unsafe { core::ptr::read(&this.hal) };
        (hal, this.pfn)
    }

    /// Writes a leaf, or any other entry that is not a link.
    pub(super) fn fill(&mut self, format: &EntryFormat, level: Level, index: usize, value: Spte) {
        if format.kind(value, level) == Kind::Table {
            self.hal.bug("a link was written as a plain entry");
            return;
        }
        // SAFETY: this value owns the table.
        let page = unsafe { self.hal.table(self.pfn) };
        // SAFETY: as above; entries are atomic, so sharing is all it takes.
        let page = unsafe { page.as_ref() };
        if let Some(entry) = page.entries.get(index) {
            // Relaxed: whoever links the table releases what is in it.
            entry.store(value.bits(), Ordering::Relaxed);
            self.hal.note_entry_write(self.pfn, index, 0, value.bits());
        }
    }
}

impl<H: Hal> Drop for FreshTable<H> {
    fn drop(&mut self) {
        // SAFETY: this value owns the table; nobody else ever saw it.
        unsafe { self.hal.free_table(self.pfn) }
    }
}

/// A root table: linked from vCPUs' control structures, not from an entry.
///
/// Freed after a grace period, because lockless walks start here.
pub struct RootTable<H: Hal> {
    hal: H,
    pfn: Pfn,
}

impl<H: Hal> RootTable<H> {
    /// Makes a table a root.
    pub fn new(table: FreshTable<H>) -> Self {
        let (hal, pfn) = table.give_away();
        Self { hal, pfn }
    }

    /// The frame that hardware is pointed at.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The table, for a walk within the read section of `rcu`.
    pub fn walk<'r>(&'r self, space: &'r Space<H>, _rcu: &'r RcuGuard<'_, H>) -> Table<'r, H> {
        // SAFETY: this value owns the table and outlives `'r`.
        unsafe { Table::at(space, self.pfn, space.format.root_level()) }
    }
}

impl<H: Hal> Drop for RootTable<H> {
    fn drop(&mut self) {
        // SAFETY: owned and not used after this. No vCPU runs on it (each
        // holds a handle to what owns this value); lockless walkers that still
        // read it are inside a section.
        unsafe { self.hal.free_table_deferred(self.pfn) }
    }
}

/// A table that can be read within `'r`, a part of an RCU read section.
pub struct Table<'r, H: Hal> {
    space: &'r Space<H>,
    page: NonNull<PageTable>,
    pfn: Pfn,
    level: Level,
}

impl<H: Hal> Clone for Table<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H: Hal> Copy for Table<'_, H> {}

impl<'r, H: Hal> Table<'r, H> {
    /// # Safety
    ///
    /// `pfn` is a table of this host at `level` that stays readable for `'r`.
    #[inline(always)]
    unsafe fn at(space: &'r Space<H>, pfn: Pfn, level: Level) -> Self {
        Self {
            space,
            // SAFETY: as the caller promises.
            page: unsafe { space.hal.table(pfn) },
            pfn,
            level,
        }
    }

    /// The level of the table's entries.
    #[inline(always)]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Reads the entry that covers `gfn`.
    #[inline(always)]
    pub fn entry(&self, gfn: Gfn) -> Entry<'r, H> {
        // Acquire pairs with the release of `Entry::link`: whoever sees a link
        // sees the table's entries.
        let bits = self.word(gfn).load(Ordering::Acquire);
        Entry {
            table: *self,
            gfn,
            value: Spte::from_bits(bits),
        }
    }

    /// The first entry that is not empty, from the one that covers `gfn` to the
    /// end of the table.
    #[inline(always)]
    pub fn next_filled(&self, gfn: Gfn) -> Option<Entry<'r, H>> {
        // SAFETY: readable for `'r`, by the promise of `at`.
        let page: &'r PageTable = unsafe { self.page.as_ref() };
        let first = gfn.index(self.level);
        let mut index = first;
        let bits = loop {
            // Acquire as in `entry`.
            match page.entries.get(index)?.load(Ordering::Acquire) {
                0 => index += 1,
                bits => break bits,
            }
        };
        let skipped = (index - first) as u64;
        Some(Entry {
            table: *self,
            gfn: match skipped {
                0 => gfn,
                _ => gfn.align_down(self.level).add(skipped * self.level.pages()),
            },
            value: Spte::from_bits(bits),
        })
    }

    #[inline(always)]
    fn word(&self, gfn: Gfn) -> &'r AtomicU64 {
        let index = gfn.index(self.level) & (ENTRIES - 1);
        // SAFETY: readable for `'r`, by the promise of `at`, and the index is
        // within the table. Only the one entry is referred to: an interpreter
        // that checks references checks every byte of them.
        unsafe { &(&(*self.page.as_ptr()).entries)[index] }
    }
}

/// An entry as it was read: where it stands, what it covers, what it held.
pub struct Entry<'r, H: Hal> {
    table: Table<'r, H>,
    /// A frame that the entry covers: the first one is seldom asked for.
    gfn: Gfn,
    value: Spte,
}

impl<H: Hal> Clone for Entry<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H: Hal> Copy for Entry<'_, H> {}

/// What an exchange took out of a table.
#[must_use = "a table that was taken out has children to remove"]
pub enum Taken<'r, H: Hal> {
    /// Something that is not a link.
    Plain(Spte),
    /// A link: the table behind it now belongs to whoever holds this.
    Table(Unlinked<'r, H>),
}

impl<'r, H: Hal> Entry<'r, H> {
    /// The first frame that the entry covers.
    #[inline(always)]
    pub fn gfn(&self) -> Gfn {
        self.gfn.align_down(self.table.level)
    }

    /// The frame by which the entry was found.
    #[inline(always)]
    pub(super) fn frame(&self) -> Gfn {
        self.gfn
    }

    /// The table that the entry stands in.
    #[inline(always)]
    pub fn table(&self) -> Table<'r, H> {
        self.table
    }

    /// The level of the table that the entry stands in.
    #[inline(always)]
    pub fn level(&self) -> Level {
        self.table.level
    }

    /// What the entry held when it was read.
    #[inline(always)]
    pub fn value(&self) -> Spte {
        self.value
    }

    /// What kind of entry it was when it was read.
    #[inline(always)]
    pub fn kind(&self) -> Kind {
        self.table.space.format.kind(self.value, self.table.level)
    }

    /// Reads the entry again.
    #[inline(always)]
    pub fn reload(&self) -> Self {
        self.table.entry(self.gfn)
    }

    /// The table that the entry links to, if it is a link.
    #[inline(always)]
    pub fn child(&self) -> Option<Table<'r, H>> {
        if self.kind() != Kind::Table {
            return None;
        }
        let below = self.table.level.below()?;
        let pfn = self.table.space.format.pfn(self.value);
        // SAFETY: see "Why following an entry is sound".
        Some(unsafe { Table::at(self.table.space, pfn, below) })
    }

    /// Replaces what was read by `new`, unless the entry has changed since:
    /// then nothing was written (TDP-2), and this is the entry as it is now.
    /// `new` is not a link.
    #[inline(always)]
    pub fn exchange(&mut self, new: Spte) -> Option<Taken<'r, H>> {
        if self.refuses(new) {
            return None;
        }
        let taken = match self.child() {
            // Of no use, and no harm, unless the link was taken out.
            Some(table) => Err(table),
            None => Ok(self.value),
        };
        if !self.compare_exchange(new) {
            return None;
        }
        Some(match taken {
            Err(table) => Taken::Table(Unlinked { table }),
            Ok(old) => Taken::Plain(old),
        })
    }

    /// Takes the bits that `keep` lacks from the leaf, if it is one, in a lowest table, and has any
    /// of them; returns what it held then. `keep` has the bit of a leaf and its address.
    #[inline(always)]
    pub(super) fn restrict(mut self, keep: Spte) -> Option<Spte> {
        // An entry that is not present is never modified (TDP-13).
        while self.value.is_present() && self.value.and(keep) != self.value {
            if self.compare_exchange(self.value.and(keep)) {
                return Some(self.value);
            }
        }
        None
    }

    /// Replaces whatever the entry holds by `new`, which is not a link.
    ///
    /// One atomic exchange, so bits that hardware sets are either in what is
    /// returned or never set (TDP-10).
    #[inline(always)]
    pub fn swap(&self, new: Spte) -> Taken<'r, H> {
        if self.refuses(new) {
            return Taken::Plain(Spte::EMPTY);
        }
        // AcqRel as in `compare_exchange`.
        let old = self.table.word(self.gfn).swap(new.bits(), Ordering::AcqRel);
        self.note(old, new.bits());
        let was = Entry {
            value: Spte::from_bits(old),
            ..*self
        };
        match was.child() {
            Some(table) => Taken::Table(Unlinked { table }),
            None => Taken::Plain(was.value),
        }
    }

    /// Links `table` in place of what was read, which is not a link, unless
    /// the entry has changed since. Returns the table as linked.
    ///
    /// # Errors
    ///
    /// The table back, and this is the entry as it is now.
    pub fn link(&mut self, table: FreshTable<H>) -> Result<Table<'r, H>, FreshTable<H>> {
        let (Some(below), false) = (self.table.level.below(), self.kind() == Kind::Table) else {
            self.table.space.hal.bug("a link where none can be");
            return Err(table);
        };
        let pfn = table.pfn;
        if !self.compare_exchange(self.table.space.format.link(pfn)) {
            return Err(table);
        }
        // From now on it is freed by whoever takes the link out.
        table.give_away();
        // SAFETY: just linked, so it stays readable for the section.
        Ok(unsafe { Table::at(self.table.space, pfn, below) })
    }

    /// Whether it was done; if not, this is the entry as it is now.
    #[inline(always)]
    fn compare_exchange(&mut self, new: Spte) -> bool {
        let part = if self.value.is_present() {
            Part::ChangeCas
        } else {
            Part::InstallCas
        };
        if removed(part) {
            let old = self.table.word(self.gfn).swap(new.bits(), Ordering::AcqRel);
            self.note(old, new.bits());
            return true;
        }
        // Release: what was written into a table is visible before its link;
        // pairs with the acquire of `Table::entry`. Acquire: what the entry's
        // last writer did is visible to us.
        match self.table.word(self.gfn).compare_exchange(
            self.value.bits(),
            new.bits(),
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(old) => {
                self.note(old, new.bits());
                true
            }
            Err(now) => {
                self.value = Spte::from_bits(now);
                false
            }
        }
    }

    #[inline(always)]
    fn refuses(&self, new: Spte) -> bool {
        let is_link = self.table.space.format.kind(new, self.table.level) == Kind::Table;
        if is_link {
            self.table
                .space
                .hal
                .bug("a link was written as a plain entry");
        }
        is_link
    }

    #[inline(always)]
    fn note(&self, old: u64, new: u64) {
        let index = self.gfn.index(self.table.level);
        self.table
            .space
            .hal
            .note_entry_write(self.table.pfn, index, old, new);
    }
}

/// A table that was taken out of its parent: its holder removes what is below
/// and flushes the TLB; dropping it frees the table after a grace period.
///
/// It cannot outlive the read section in which it was taken out, and that
/// section is what keeps it alive for hardware until the flush (TDP-6).
#[must_use = "its children are still mapped by hardware"]
pub struct Unlinked<'r, H: Hal> {
    table: Table<'r, H>,
}

impl<'r, H: Hal> Unlinked<'r, H> {
    /// The table, still readable.
    pub fn table(&self) -> Table<'r, H> {
        self.table
    }
}

impl<H: Hal> Drop for Unlinked<'_, H> {
    fn drop(&mut self) {
        // SAFETY: the exchange that made this value took the only link out,
        // and the due flush comes before the section ends (`Op` borrows it).
        unsafe {
            self.table.space.hal.free_table_deferred(self.table.pfn);
        }
    }
}
