//! Where threads sleep until a condition holds.

use std::sync::{Arc, Weak};

use waterbear_hal::WaitQueue;
use waterbear_hal::sync::atomic::{Ordering, fence};

use crate::leaks::Alive;
use crate::sys::{self, book};
use crate::{Machine, Mock};

#[derive(Default)]
struct State {
    sleepers: usize,
    /// A signal that no interruptible wait has seen yet.
    signal: bool,
}

#[derive(Default)]
struct Inner {
    state: sys::Mutex<State>,
    moved: sys::Condvar,
}

/// All wait queues of a machine, for signals.
#[derive(Default)]
pub(crate) struct Queues(std::sync::Mutex<Vec<Weak<Inner>>>);

impl Queues {
    pub(crate) fn make(&self, machine: &Arc<Machine>) -> Queue {
        let inner = Arc::new(Inner::default());
        let mut queues = book(&self.0);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&inner));
        Queue {
            alive: Alive::new(machine, |live| &live.queues),
            inner,
        }
    }
}

/// A wait queue.
///
/// Both sides take the queue's mutex, and `ready` is asked under it, as on a
/// host whose queues are a mutex and a condition variable. The barriers that
/// the HAL promises are there besides.
pub struct Queue {
    alive: Alive,
    inner: Arc<Inner>,
}

impl WaitQueue for Queue {
    #[track_caller]
    fn wait(&self, interruptible: bool, mut ready: impl FnMut() -> bool) -> bool {
        let machine = self.alive.machine();
        machine.may_sleep("wait");
        let thread = machine.thread();
        let mut state = sys::lock(&self.inner.state);
        loop {
            state.sleepers += 1;
            // Pairs with `wake`.
            fence(Ordering::SeqCst);
            thread.no_sleep.set(Some("the condition of a wait"));
            let is_ready = ready();
            thread.no_sleep.set(None);
            if is_ready || interruptible && std::mem::take(&mut state.signal) {
                state.sleepers -= 1;
                return is_ready;
            }
            state = sys::wait(&self.inner.moved, state, "a wake-up");
            state.sleepers -= 1;
        }
    }

    #[track_caller]
    fn wake(&self) -> bool {
        if sys::model_failed() {
            return false;
        }
        self.alive.machine().needs_irqs_on("wake");
        // Pairs with `wait`.
        fence(Ordering::SeqCst);
        let state = sys::lock(&self.inner.state);
        if state.sleepers > 0 {
            self.inner.moved.notify_all();
        }
        state.sleepers > 0
    }
}

impl Queue {
    /// A signal for whoever waits here interruptibly, or the next one who
    /// does.
    pub fn interrupt(&self) {
        self.inner.interrupt();
    }

    /// How many threads sleep here.
    pub fn sleepers(&self) -> usize {
        sys::lock(&self.inner.state).sleepers
    }
}

impl Inner {
    fn interrupt(&self) {
        sys::lock(&self.state).signal = true;
        self.moved.notify_all();
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// [`Queue::interrupt`] for every queue of the machine, wherever the code
    /// under test keeps it.
    pub fn interrupt_sleepers(&self) {
        let queues: Vec<_> = book(&self.0.queues.0)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        queues.iter().for_each(|queue| queue.interrupt());
    }

    /// How many threads sleep in wait queues of this machine.
    pub fn sleepers(&self) -> usize {
        let queues: Vec<_> = book(&self.0.queues.0)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let sleepers = queues.iter().map(|queue| sys::lock(&queue.state).sleepers);
        sleepers.sum()
    }
}
