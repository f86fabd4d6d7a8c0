//! Read sections that never sleep.

use std::sync::Arc;

use waterbear_hal::{AllocError, Rcu};

use crate::srcu::Srcu;
use crate::sys;
use crate::{Mock, broken};

// SAFETY: `grace` keeps deferred frames until the sections that were open are
// over, and `srcu` waits as it says.
unsafe impl<const NOTIFIER: bool> Rcu for Mock<NOTIFIER> {
    type Srcu = Srcu;

    fn rcu_lock(&self) {
        let thread = self.0.thread();
        let depth = thread.rcu_depth.get();
        thread.rcu_depth.set(depth + 1);
        if depth == 0 {
            self.0.enter_section(&thread);
        }
    }

    #[track_caller]
    unsafe fn rcu_unlock(&self) {
        if sys::model_failed() {
            return;
        }
        let thread = self.0.thread();
        let Some(depth) = thread.rcu_depth.get().checked_sub(1) else {
            return broken!("an RCU read section ends that did not begin");
        };
        thread.rcu_depth.set(depth);
        if depth == 0 {
            self.0.leave_section(&thread);
        }
    }

    #[track_caller]
    fn rcu_barrier(&self) {
        let machine = &*self.0;
        machine.may_sleep("rcu_barrier");
        if machine.checking {
            let thread = machine.thread();
            if let Some(held) = thread.held.borrow().first() {
                broken!("rcu_barrier is called under `{}`", held.class.name);
            }
            if !thread.srcu.borrow().is_empty() {
                broken!("rcu_barrier is called in a sleepable read section");
            }
        }
        machine.drain_deferred();
    }

    #[track_caller]
    fn new_srcu(&self) -> Result<Srcu, AllocError> {
        self.0.may_sleep("new_srcu");
        self.0.inject.allocation()?;
        Ok(Srcu::new(Arc::clone(&self.0)))
    }
}
