//! Read sections that may sleep.
//!
//! Which sections are open is a book. The atomic and the condition variable
//! carry the order that the HAL promises and nothing more, so that readers do
//! not order each other and a model can see a barrier that is missing between
//! them.

use std::sync::{Arc, Mutex};

use waterbear_hal::sync::atomic::{AtomicUsize, Ordering};

use crate::leaks::Alive;
use crate::sys::{self, book};
use crate::{Machine, broken};

#[derive(Default)]
struct Book {
    /// The numbers of the sections that are open. Numbers rise.
    open: Vec<usize>,
    sections: usize,
    synchronizers: usize,
    /// Readers that are held off by somebody who synchronises.
    readers_waiting: usize,
}

/// A domain of sleepable read sections.
///
/// On a [`PinningHost`](crate::PinningHost) it behaves like a reader-writer
/// lock, as on a host without SRCU: new readers wait while somebody
/// synchronises.
pub struct Srcu {
    alive: Alive,
    book: Mutex<Book>,
    /// Released by those who synchronise, acquired by later sections.
    begun: AtomicUsize,
    /// Released by sections that end, acquired by those who synchronise.
    ended: AtomicUsize,
    gate: sys::Mutex<()>,
    moved: sys::Condvar,
}

impl Srcu {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self {
            alive: Alive::new(&machine, |live| &live.srcus),
            book: Mutex::default(),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            gate: sys::Mutex::new(()),
            moved: sys::Condvar::new(),
        }
    }

    fn id(&self) -> u64 {
        std::ptr::from_ref(self).addr() as u64
    }

    /// Opens a section in the book unless somebody who synchronises comes
    /// first.
    fn try_open(&self, waiting: bool) -> Option<usize> {
        let mut book = book(&self.book);
        if book.synchronizers > 0 && self.alive.machine().readers_wait {
            if !waiting {
                book.readers_waiting += 1;
            }
            return None;
        }
        if waiting {
            book.readers_waiting -= 1;
        }
        book.sections += 1;
        let number = book.sections;
        book.open.push(number);
        Some(number)
    }

    #[track_caller]
    fn check_nesting(&self) {
        let machine = self.alive.machine();
        if machine.checking && machine.thread().srcu.borrow().contains(&self.id()) {
            broken!("sleepable read sections do not nest");
        }
    }

    /// The rest of opening a section.
    fn opened(&self) {
        // Pairs with `synchronize`: a section that it does not wait for sees
        // what was written before it.
        self.begun.fetch_add(0, Ordering::Acquire);
        let machine = self.alive.machine();
        if machine.checking {
            machine.thread().srcu.borrow_mut().push(self.id());
        }
    }

    fn still_open(&self, upto: usize) -> bool {
        book(&self.book).open.iter().any(|&number| number <= upto)
    }
}

impl waterbear_hal::Srcu for Srcu {
    #[track_caller]
    fn lock(&self) -> usize {
        self.alive.machine().may_sleep("a sleepable read section");
        self.check_nesting();
        let number = match self.try_open(false) {
            Some(number) => number,
            None => {
                let mut gate = sys::lock(&self.gate);
                loop {
                    match self.try_open(true) {
                        Some(number) => break number,
                        None => gate = sys::wait(&self.moved, gate, "a writer of the read domain"),
                    }
                }
            }
        };
        self.opened();
        number
    }

    #[track_caller]
    fn try_lock(&self) -> Option<usize> {
        self.check_nesting();
        let number = self.try_open(false);
        match number {
            Some(_) => self.opened(),
            // Nobody waits after all.
            None => book(&self.book).readers_waiting -= 1,
        }
        number
    }

    #[track_caller]
    unsafe fn unlock(&self, token: usize) {
        if sys::model_failed() {
            return;
        }
        let machine = self.alive.machine();
        if machine.checking {
            let thread = machine.thread();
            let mut mine = thread.srcu.borrow_mut();
            match mine.iter().position(|&id| id == self.id()) {
                Some(at) => {
                    mine.swap_remove(at);
                }
                None => broken!("a sleepable read section ends that this thread did not begin"),
            }
        }
        // Pairs with `synchronize`: what the section did is seen by those who
        // waited for it.
        self.ended.fetch_add(1, Ordering::Release);
        let waited_for = {
            let mut book = book(&self.book);
            match book.open.iter().position(|&number| number == token) {
                Some(at) => {
                    book.open.swap_remove(at);
                }
                None => broken!("sleepable read section {token} is not open"),
            }
            book.synchronizers > 0
        };
        if waited_for {
            let _gate = sys::lock(&self.gate);
            self.moved.notify_all();
        }
    }

    #[track_caller]
    fn synchronize(&self) {
        let machine = self.alive.machine();
        machine.may_sleep("synchronize");
        if machine.checking && machine.thread().srcu.borrow().contains(&self.id()) {
            broken!("synchronize is called in a section of the same domain");
        }
        // Pairs with `lock`.
        self.begun.fetch_add(1, Ordering::Release);
        let upto = {
            let mut book = book(&self.book);
            book.synchronizers += 1;
            book.sections
        };
        if self.still_open(upto) {
            let mut gate = sys::lock(&self.gate);
            while self.still_open(upto) {
                gate = sys::wait(&self.moved, gate, "the readers of a read domain");
            }
        }
        let readers_waiting = {
            let mut book = book(&self.book);
            book.synchronizers -= 1;
            book.readers_waiting > 0
        };
        if readers_waiting {
            let _gate = sys::lock(&self.gate);
            self.moved.notify_all();
        }
        // Pairs with `unlock`.
        self.ended.fetch_add(0, Ordering::Acquire);
    }
}
