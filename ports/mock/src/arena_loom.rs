//! Page-table pages under the model checker, whose atomics are objects.
//!
//! A table is built when its frame is allocated, so zeroing it costs the model
//! nothing. A freed table is poisoned with stores that the model sees: they
//! conflict with the loads of a reader who is still there, so the checker
//! tries both orders. Old tables stay in memory until the machine goes, so a
//! stale pointer reads poison.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Mutex;

use waterbear_hal::sync::atomic::{AtomicU64, Ordering::Relaxed};
use waterbear_hal::{PageTable, Pfn};

use crate::sys::book;
use crate::{POISON, broken};

/// The frame number of the first page table.
pub const TABLE_BASE: Pfn = Pfn(0x10_0000);

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nobody's.
    Free,
    /// Somebody's.
    Allocated,
    /// Freed, but readers may still see it.
    Deferred,
}

struct Frame {
    state: State,
    /// The last is the current one. Shared, so that the model's operations
    /// happen while the book is closed.
    tables: Vec<std::sync::Arc<PageTable>>,
}

struct Frames {
    frames: Vec<Frame>,
    used: VecDeque<usize>,
}

/// All page-table pages of a machine.
pub(crate) struct Arena {
    capacity: usize,
    frames: Mutex<Frames>,
}

impl Arena {
    pub(crate) fn new(capacity: usize, _checking: bool) -> Self {
        Self {
            capacity,
            frames: Mutex::new(Frames {
                frames: Vec::new(),
                used: VecDeque::new(),
            }),
        }
    }

    /// A frame with every entry zero.
    pub(crate) fn alloc(&self) -> Option<Pfn> {
        let table = std::sync::Arc::new(PageTable {
            entries: std::array::from_fn(|_| AtomicU64::new(0)),
        });
        let mut frames = book(&self.frames);
        let index = if frames.frames.len() < self.capacity {
            frames.frames.push(Frame {
                state: State::Free,
                tables: Vec::new(),
            });
            frames.frames.len() - 1
        } else {
            frames.used.pop_front()?
        };
        let frame = &mut frames.frames[index];
        frame.state = State::Allocated;
        frame.tables.push(table);
        Some(TABLE_BASE.add(index as u64))
    }

    /// Gives a frame back.
    #[track_caller]
    pub(crate) fn free(&self, pfn: Pfn, was: State) {
        let table = self.change(pfn, was, State::Free);
        for entry in &table.entries {
            entry.store(POISON, Relaxed);
        }
        let index = (pfn.0 - TABLE_BASE.0) as usize;
        book(&self.frames).used.push_back(index);
    }

    /// Marks a frame as one that will be freed.
    #[track_caller]
    pub(crate) fn defer(&self, pfn: Pfn) {
        self.change(pfn, State::Allocated, State::Deferred);
    }

    /// Where the frame is.
    pub(crate) fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        let frames = book(&self.frames);
        let table = index(pfn)
            .and_then(|index| frames.frames.get(index))
            .and_then(|frame| frame.tables.last());
        match table {
            Some(table) => NonNull::from(&**table),
            None => panic!("{pfn:?} is no page table"),
        }
    }

    /// What the frame is, or `None` when it is no frame of the arena.
    pub(crate) fn state(&self, pfn: Pfn) -> Option<State> {
        let frames = book(&self.frames);
        frames.frames.get(index(pfn)?).map(|frame| frame.state)
    }

    /// The frames that are not free.
    pub(crate) fn live(&self) -> Vec<Pfn> {
        let frames = book(&self.frames);
        (0..frames.frames.len())
            .filter(|&i| frames.frames[i].state != State::Free)
            .map(|i| TABLE_BASE.add(i as u64))
            .collect()
    }

    #[track_caller]
    fn change(&self, pfn: Pfn, from: State, to: State) -> std::sync::Arc<PageTable> {
        let mut frames = book(&self.frames);
        let Some(frame) = index(pfn).and_then(|i| frames.frames.get_mut(i)) else {
            panic!("{pfn:?} is freed, but it is no page table");
        };
        if frame.state != from {
            broken!("double free: page table {pfn:?} is freed again");
        }
        frame.state = to;
        let table = frame.tables.last().expect("an allocated frame has a table");
        std::sync::Arc::clone(table)
    }
}

fn index(pfn: Pfn) -> Option<usize> {
    pfn.0.checked_sub(TABLE_BASE.0).map(|i| i as usize)
}
