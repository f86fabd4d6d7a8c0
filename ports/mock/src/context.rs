//! What a thread is in the middle of, and what it therefore must not do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use waterbear_hal::CpuId;
use waterbear_hal::lock::{LockClass, LockKind};

use crate::grace::Section;
use crate::{Machine, Mock, broken};

/// One lock that a thread holds.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) class: &'static LockClass,
    pub(crate) lock: u64,
    pub(crate) write: bool,
}

/// One thread, as one machine sees it.
pub(crate) struct Thread {
    machine: u64,
    alive: Weak<()>,
    pub(crate) cpu: Cell<CpuId>,
    pub(crate) pins: Cell<u32>,
    pub(crate) irqs_off: Cell<bool>,
    pub(crate) rcu_depth: Cell<u32>,
    pub(crate) section: Arc<Section>,
    pub(crate) held: RefCell<Vec<Held>>,
    pub(crate) srcu: RefCell<Vec<u64>>,
    pub(crate) holds_cpus: Cell<bool>,
    /// A guest's FPU state is in the CPU whenever the thread runs.
    pub(crate) guest_fpu: Cell<bool>,
    /// Set while the thread runs code that a caller promised never sleeps.
    pub(crate) no_sleep: Cell<Option<&'static str>>,
}

#[cfg(not(loom))]
std::thread_local! {
    static THREAD: RefCell<Vec<Rc<Thread>>> = const { RefCell::new(Vec::new()) };
}
#[cfg(loom)]
loom::thread_local! {
    static THREAD: RefCell<Vec<Rc<Thread>>> = RefCell::new(Vec::new());
}

impl Machine {
    /// The calling thread.
    pub(crate) fn thread(&self) -> Rc<Thread> {
        THREAD.with(|threads| {
            if let Some(thread) = threads.borrow().iter().find(|t| t.machine == self.id) {
                return Rc::clone(thread);
            }
            let thread = Rc::new(Thread {
                machine: self.id,
                alive: Arc::downgrade(&self.alive),
                cpu: Cell::new(0),
                pins: Cell::new(0),
                irqs_off: Cell::new(false),
                rcu_depth: Cell::new(0),
                section: self.grace.register(),
                held: RefCell::default(),
                srcu: RefCell::default(),
                holds_cpus: Cell::new(false),
                guest_fpu: Cell::new(false),
                no_sleep: Cell::new(None),
            });
            let mut threads = threads.borrow_mut();
            threads.retain(|t| t.alive.strong_count() > 0);
            threads.insert(0, Rc::clone(&thread));
            thread
        })
    }

    /// Panics unless this thread may sleep now.
    #[track_caller]
    pub(crate) fn may_sleep(&self, what: &str) {
        if !self.checking || std::thread::panicking() {
            return;
        }
        let thread = self.thread();
        if thread.rcu_depth.get() > 0 {
            broken!("{what} may sleep, but this thread is in an RCU read section");
        }
        if let Some(held) = thread.spinning() {
            broken!(
                "{what} may sleep, but this thread holds the spinning lock `{}`",
                held.class.name
            );
        }
        if thread.irqs_off.get() {
            broken!("{what} may sleep, but interrupts are off");
        }
        if thread.pins.get() > 0 {
            broken!("{what} may sleep, but this thread is pinned");
        }
        if let Some(why) = thread.no_sleep.get() {
            broken!("{what} may sleep, but this thread is in {why}");
        }
    }

    /// Panics unless interrupts are on.
    #[track_caller]
    pub(crate) fn needs_irqs_on(&self, what: &str) {
        if self.checking && !std::thread::panicking() && self.thread().irqs_off.get() {
            broken!("{what} needs interrupts on, but they are off");
        }
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Whether this thread is in an RCU read section.
    pub fn in_rcu_section(&self) -> bool {
        self.0.thread().rcu_depth.get() > 0
    }

    /// The names of the locks that this thread holds, oldest first. Known only
    /// while rules are checked.
    pub fn held_locks(&self) -> Vec<&'static str> {
        let thread = self.0.thread();
        let held = thread.held.borrow();
        held.iter().map(|held| held.class.name).collect()
    }
}

impl Thread {
    /// A spinning lock that this thread holds.
    pub(crate) fn spinning(&self) -> Option<Held> {
        let held = self.held.borrow();
        held.iter()
            .copied()
            .find(|h| h.class.kind == LockKind::Spinning)
    }

    /// Enforces the lock order before a lock is taken.
    #[track_caller]
    pub(crate) fn check_rank(&self, class: &'static LockClass) {
        let held = self.held.borrow();
        let Some(highest) = held.iter().max_by_key(|h| h.class.rank) else {
            return;
        };
        if class.rank <= highest.class.rank {
            broken!(
                "lock order: `{}` (rank {}) is taken under `{}` (rank {})",
                class.name,
                class.rank,
                highest.class.name,
                highest.class.rank
            );
        }
    }

    /// Notes that a lock was taken.
    pub(crate) fn took(&self, held: Held) {
        self.held.borrow_mut().push(held);
    }

    /// Notes that a lock is about to be released, in any order.
    #[track_caller]
    pub(crate) fn releases(&self, lock: u64, write: bool, class: &'static LockClass) {
        let mut held = self.held.borrow_mut();
        match held
            .iter()
            .rposition(|h| h.lock == lock && h.write == write)
        {
            Some(at) => {
                held.remove(at);
            }
            None => broken!(
                "`{}` is released by a thread that does not hold it",
                class.name
            ),
        }
    }
}
