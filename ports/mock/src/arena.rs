//! Page-table pages: one allocation, cut into frames.
//!
//! A frame's number is a base plus its index, so finding a table is an offset
//! from the arena's own pointer and no integer ever becomes a pointer. The
//! system zeroes the arena page by page when a page is first touched, so a
//! large one costs nothing until it is used. That holds only for memory of the
//! allocator's usual alignment: other memory the standard library zeroes by
//! hand. So the arena asks for one page more and aligns its base itself.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use waterbear_hal::memory::ENTRIES;
use waterbear_hal::{PageTable, Pfn};

use crate::sys::book;
use crate::{POISON, broken};

/// The frame number of the first page table.
pub const TABLE_BASE: Pfn = Pfn(0x10_0000);

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// Nobody's.
    Free,
    /// Somebody's.
    Allocated,
    /// Freed, but readers may still see it.
    Deferred,
}

/// The frames that are free: those never used, and those used before, of
/// which the one freed first is reused first, so that a stale user meets
/// poison for as long as possible.
struct FreeFrames {
    fresh: usize,
    used: VecDeque<usize>,
}

/// All page-table pages of a machine.
pub(crate) struct Arena {
    base: NonNull<PageTable>,
    /// What was allocated: `base` is inside it.
    memory: NonNull<u8>,
    layout: Layout,
    checking: bool,
    states: Box<[AtomicU8]>,
    free: Mutex<FreeFrames>,
}

// SAFETY: the arena owns the memory behind `base`, whose contents are atomics.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`; the rest is atomics and a mutex.
unsafe impl Sync for Arena {}

impl Arena {
    pub(crate) fn new(capacity: usize, checking: bool) -> Self {
        assert!(capacity > 0, "a machine needs a page table");
        let layout = Layout::array::<PageTable>(capacity + 1)
            .and_then(|pages| Layout::from_size_align(pages.size(), align_of::<u64>()))
            .expect("an arena that fits in memory");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(layout)
        };
        // SAFETY: less than one page further on, and there is a page to spare.
        let base = unsafe { memory.add(memory.align_offset(align_of::<PageTable>())) };
        let base = base.cast();
        Self {
            base,
            memory,
            layout,
            checking,
            states: (0..capacity)
                .map(|_| AtomicU8::new(State::Free as u8))
                .collect(),
            free: Mutex::new(FreeFrames {
                fresh: 0,
                used: VecDeque::new(),
            }),
        }
    }

    /// A frame with every entry zero.
    #[track_caller]
    pub(crate) fn alloc(&self) -> Option<Pfn> {
        let (index, recycled) = {
            let mut free = book(&self.free);
            if free.fresh < self.states.len() {
                free.fresh += 1;
                (free.fresh - 1, false)
            } else {
                (free.used.pop_front()?, true)
            }
        };
        if recycled && self.checking {
            self.clean(index);
        } else if recycled {
            // SAFETY: the frame is free, so nobody else touches it, and zero
            // is a valid table.
            unsafe { self.at(index).write_bytes(0, 1) };
        }
        self.states[index].store(State::Allocated as u8, Relaxed);
        Some(TABLE_BASE.add(index as u64))
    }

    /// Zeroes a frame that was poisoned, and complains if it no longer is.
    #[track_caller]
    fn clean(&self, index: usize) {
        let table = self.at(index);
        for (i, entry) in self.entries(table).iter().enumerate() {
            let was = entry.load(Relaxed);
            if was != POISON {
                broken!(
                    "use after free: entry {i} of the freed page table {:?} was set to {was:#x}",
                    TABLE_BASE.add(index as u64)
                );
            }
            entry.store(0, Relaxed);
        }
    }

    /// Gives a frame back.
    #[track_caller]
    pub(crate) fn free(&self, pfn: Pfn, was: State) {
        let index = self.owned(pfn, was, "freed");
        if self.checking {
            let table = self.at(index);
            for entry in self.entries(table) {
                entry.store(POISON, Relaxed);
            }
        }
        self.states[index].store(State::Free as u8, Relaxed);
        book(&self.free).used.push_back(index);
    }

    /// Marks a frame as one that will be freed.
    #[track_caller]
    pub(crate) fn defer(&self, pfn: Pfn) {
        let index = self.owned(pfn, State::Allocated, "freed");
        self.states[index].store(State::Deferred as u8, Relaxed);
    }

    /// Where the frame is. With checks off the caller's word is taken for it.
    #[inline]
    pub(crate) fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        self.at((pfn.0 - TABLE_BASE.0) as usize)
    }

    /// What the frame is, or `None` when it is no frame of the arena.
    pub(crate) fn state(&self, pfn: Pfn) -> Option<State> {
        let index = pfn.0.checked_sub(TABLE_BASE.0)? as usize;
        Some(match self.states.get(index)?.load(Relaxed) {
            0 => State::Free,
            1 => State::Allocated,
            _ => State::Deferred,
        })
    }

    /// The frames that are not free.
    pub(crate) fn live(&self) -> Vec<Pfn> {
        let used = book(&self.free).fresh;
        (0..used as u64)
            .map(|i| TABLE_BASE.add(i))
            .filter(|&pfn| self.state(pfn) != Some(State::Free))
            .collect()
    }

    #[inline]
    fn at(&self, index: usize) -> NonNull<PageTable> {
        // SAFETY: the index is that of a frame, which the callers of the HAL
        // promise and the checks enforce.
        unsafe { self.base.add(index) }
    }

    fn entries(&self, table: NonNull<PageTable>) -> &[std::sync::atomic::AtomicU64; ENTRIES] {
        // SAFETY: the table lies in the arena, which `self` keeps alive.
        let table = unsafe { table.as_ref() };
        &table.entries
    }

    #[track_caller]
    fn owned(&self, pfn: Pfn, expected: State, verb: &str) -> usize {
        match self.state(pfn) {
            Some(state) if state == expected => {}
            Some(State::Allocated) => {
                broken!("page table {pfn:?} is {verb} before it was unlinked")
            }
            Some(_) => broken!("double free: page table {pfn:?} is {verb} again"),
            None => panic!("{pfn:?} is {verb}, but it is no page table"),
        }
        (pfn.0 - TABLE_BASE.0) as usize
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `new` allocated this memory with this layout.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}
