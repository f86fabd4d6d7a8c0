//! Grace periods under the model checker.
//!
//! The sections that are open are a book that loom does not see; a section
//! begins and ends right after the operation before it. Two things are left to
//! model. A section that begins after a deferral sees what the deferring
//! thread did, as RCU promises: one acquire of [`Grace::edge`], made only when
//! a deferral has happened that this thread does not know of. It does not
//! release, so readers do not order each other. And [`Machine::drain_deferred`]
//! blocks.
//!
//! Not modelled: the order between the end of a section and the reuse of the
//! frame's number, which nothing in the core relies on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use waterbear_hal::Pfn;
use waterbear_hal::sync::atomic::{AtomicUsize, Ordering};

use crate::Machine;
use crate::arena::State;
use crate::context::Thread;
use crate::sys::{self, book};

/// The section of one thread, and the last deferral that it knows of.
#[derive(Default)]
pub(crate) struct Section {
    id: Cell<u64>,
    seen: Cell<u64>,
}

#[derive(Default)]
struct Book {
    /// Sections that are open, by number. Numbers rise.
    open: Vec<u64>,
    sections: u64,
    deferrals: u64,
    /// Frames, each with the number of sections that had begun before it.
    deferred: VecDeque<(u64, Pfn)>,
    /// Frames that are being freed.
    leaving: usize,
    drainers: usize,
}

/// The frames that wait, and the sections that they wait for.
pub(crate) struct Grace {
    book: Mutex<Book>,
    edge: AtomicUsize,
    gate: sys::Mutex<()>,
    moved: sys::Condvar,
}

impl Grace {
    pub(crate) fn new() -> Self {
        Self {
            book: Mutex::default(),
            edge: AtomicUsize::new(0),
            gate: sys::Mutex::new(()),
            moved: sys::Condvar::new(),
        }
    }

    /// A place for a new thread to keep its section.
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "the same type as outside the model checker"
    )]
    pub(crate) fn register(&self) -> Arc<Section> {
        Arc::new(Section::default())
    }

    /// How many frames wait.
    pub(crate) fn waiting(&self) -> usize {
        let book = book(&self.book);
        book.deferred.len() + book.leaving
    }
}

impl Machine {
    /// The outermost section of `thread` begins.
    pub(crate) fn enter_section(&self, thread: &Thread) {
        let deferrals = {
            let mut book = book(&self.grace.book);
            book.sections += 1;
            let id = book.sections;
            book.open.push(id);
            thread.section.id.set(id);
            book.deferrals
        };
        if thread.section.seen.replace(deferrals) != deferrals {
            // Pairs with `Machine::defer_free`.
            self.grace.edge.fetch_add(0, Ordering::Acquire);
        }
    }

    /// The outermost section of `thread` is over.
    pub(crate) fn leave_section(&self, thread: &Thread) {
        let id = thread.section.id.get();
        book(&self.grace.book).open.retain(|&open| open != id);
        self.reclaim();
    }

    /// Frees `pfn` after a grace period.
    pub(crate) fn defer_free(&self, pfn: Pfn) {
        // Pairs with `Machine::enter_section`.
        self.grace.edge.fetch_add(1, Ordering::Release);
        {
            let mut book = book(&self.grace.book);
            book.deferrals += 1;
            let begun = book.sections;
            book.deferred.push_back((begun, pfn));
        }
        self.reclaim();
    }

    /// Frees every frame whose grace period is over.
    pub(crate) fn reclaim(&self) {
        let ripe = {
            let mut book = book(&self.grace.book);
            let oldest = book.open.iter().copied().min().unwrap_or(u64::MAX);
            let mut ripe = Vec::new();
            while book
                .deferred
                .front()
                .is_some_and(|&(begun, _)| begun < oldest)
            {
                ripe.extend(book.deferred.pop_front().map(|(_, pfn)| pfn));
            }
            book.leaving += ripe.len();
            ripe
        };
        if ripe.is_empty() {
            return;
        }
        let freed = ripe.len();
        for pfn in ripe {
            self.release_frame(pfn, State::Deferred);
        }
        let drainers = {
            let mut book = book(&self.grace.book);
            book.leaving -= freed;
            book.drainers
        };
        if drainers > 0 {
            let _gate = sys::lock(&self.grace.gate);
            self.grace.moved.notify_all();
        }
    }

    /// Waits until no frame waits.
    pub(crate) fn drain_deferred(&self) {
        self.reclaim();
        if self.grace.waiting() == 0 {
            return;
        }
        book(&self.grace.book).drainers += 1;
        let mut gate = sys::lock(&self.grace.gate);
        while self.grace.waiting() > 0 {
            gate = sys::wait(&self.grace.moved, gate, "the end of an RCU read section");
        }
        drop(gate);
        book(&self.grace.book).drainers -= 1;
    }
}
