//! Data pages: the memory of guests.
//!
//! A data page has a frame number, references, a dirty mark, a count of the
//! writes it got, and contents: zeros until they are written. Frame numbers are
//! never reused, so a stale mapping can be told from a fresh one.
//!
//! Contents are a book: an access to a part of a page is one step, and orders
//! nothing that a model could see.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, Weak};

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Level, Pfn};

use crate::space::Inner;
use crate::sys::book;
use crate::{Machine, Mock, broken};

/// The frame number of the first data page.
pub const DATA_BASE: Pfn = Pfn(0x100_0000);

#[derive(Default)]
struct Book {
    /// Frames given out so far, from `DATA_BASE`.
    used: u64,
    references: BTreeMap<u64, u64>,
    dirty: HashSet<u64>,
    writes: HashMap<u64, u64>,
    /// What is in the pages that were written by bytes.
    bytes: HashMap<u64, Box<Contents>>,
}

type Contents = [u8; PAGE_SIZE as usize];

/// All data pages of a machine.
#[derive(Default)]
pub(crate) struct Pages {
    book: Mutex<Book>,
    pub(crate) spaces: Mutex<Vec<Weak<Inner>>>,
}

impl Pages {
    /// Fresh frames for the user pages from `first` on, placed so that both
    /// numbers agree modulo the size of a mapping at `level`.
    pub(crate) fn alloc(&self, first: u64, pages: u64, level: Level) -> Pfn {
        let mut book = book(&self.book);
        let size = level.pages();
        let start = DATA_BASE.0 + book.used;
        let pfn = start.next_multiple_of(size) + first % size;
        book.used = pfn + pages - DATA_BASE.0;
        Pfn(pfn)
    }

    /// Takes a reference.
    pub(crate) fn reference(&self, pfn: Pfn) {
        *book(&self.book).references.entry(pfn.0).or_default() += 1;
    }

    /// Gives a reference back.
    #[track_caller]
    pub(crate) fn release(&self, pfn: Pfn, dirty: bool) {
        let mut book = book(&self.book);
        match book.references.get_mut(&pfn.0) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                book.references.remove(&pfn.0);
            }
            None => broken!("data page {pfn:?} is released, but nobody holds a reference to it"),
        }
        if dirty {
            book.dirty.insert(pfn.0);
        }
    }

    /// Reads bytes of a page.
    pub(crate) fn read(&self, pfn: Pfn, offset: usize, buf: &mut [u8]) {
        let book = book(&self.book);
        match book.bytes.get(&pfn.0) {
            Some(bytes) => buf.copy_from_slice(&bytes[offset..offset + buf.len()]),
            None => buf.fill(0),
        }
    }

    /// Runs `change` on bytes of a page, in one step.
    pub(crate) fn change<R>(
        &self,
        pfn: Pfn,
        offset: usize,
        len: usize,
        change: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let mut book = book(&self.book);
        let bytes = book.bytes.entry(pfn.0);
        let bytes = bytes.or_insert_with(|| Box::new([0; PAGE_SIZE as usize]));
        change(&mut bytes[offset..offset + len])
    }

    /// How many references there are to all pages.
    pub(crate) fn references(&self) -> u64 {
        book(&self.book).references.values().sum()
    }

    /// The pages that are referenced, and how often.
    pub(crate) fn referenced(&self) -> Vec<(Pfn, u64)> {
        let book = book(&self.book);
        let pages = book.references.iter();
        pages.map(|(&pfn, &count)| (Pfn(pfn), count)).collect()
    }
}

impl Machine {
    /// Whether some user maps the page or somebody holds a reference to it.
    fn is_page_live(&self, pfn: Pfn) -> bool {
        if book(&self.pages.book).references.contains_key(&pfn.0) {
            return true;
        }
        let spaces: Vec<_> = book(&self.pages.spaces)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        spaces.iter().any(|space| space.maps(pfn))
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// How many references there are to a data page, besides those of the user
    /// spaces that map it.
    pub fn references(&self, pfn: Pfn) -> u64 {
        let book = book(&self.0.pages.book);
        book.references.get(&pfn.0).copied().unwrap_or(0)
    }

    /// Whether a data page was ever released as dirty.
    pub fn is_dirty(&self, pfn: Pfn) -> bool {
        book(&self.0.pages.book).dirty.contains(&pfn.0)
    }

    /// Whether a user space maps the data page, or somebody holds a reference
    /// to it. When neither is so, the host has the page back.
    pub fn is_live(&self, pfn: Pfn) -> bool {
        self.0.is_page_live(pfn)
    }

    /// A guest writes to a data page. Returns how many writes the page has got
    /// now. Panics when the host has the page back.
    #[track_caller]
    pub fn data_write(&self, pfn: Pfn) -> u64 {
        self.check_data(pfn, "writes to");
        let mut book = book(&self.0.pages.book);
        let writes = book.writes.entry(pfn.0).or_default();
        *writes += 1;
        *writes
    }

    /// A guest reads a data page. Returns how many writes the page has got.
    /// Panics when the host has the page back.
    #[track_caller]
    pub fn data_read(&self, pfn: Pfn) -> u64 {
        self.check_data(pfn, "reads");
        self.data_writes(pfn)
    }

    /// How many writes a data page has got.
    pub fn data_writes(&self, pfn: Pfn) -> u64 {
        let book = book(&self.0.pages.book);
        book.writes.get(&pfn.0).copied().unwrap_or(0)
    }

    /// A guest writes bytes of a data page, as [`data_write`](Self::data_write)
    /// does.
    #[track_caller]
    pub fn data_write_bytes(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        self.data_write(pfn);
        let len = bytes.len();
        let copy = |place: &mut [u8]| place.copy_from_slice(bytes);
        self.0.pages.change(pfn, offset, len, copy);
    }

    /// A guest reads bytes of a data page. Panics when the host has the page
    /// back.
    #[track_caller]
    pub fn data_read_bytes(&self, pfn: Pfn, offset: usize, buf: &mut [u8]) {
        self.check_data(pfn, "reads");
        self.0.pages.read(pfn, offset, buf);
    }

    #[track_caller]
    fn check_data(&self, pfn: Pfn, verb: &str) {
        if !self.0.checking {
            return;
        }
        let used = DATA_BASE.0..DATA_BASE.0 + book(&self.0.pages.book).used;
        if !used.contains(&pfn.0) {
            broken!("the guest {verb} {pfn:?}, which is no data page");
        } else if !self.0.is_page_live(pfn) {
            broken!("the guest {verb} data page {pfn:?}, which the host has back");
        }
    }
}
