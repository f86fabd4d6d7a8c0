//! The host's own innermost lock: interrupts are off while it is held, so
//! handlers may take it as well.
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use waterbear_hal::Cpu;

use super::Bare;

/// Something that one CPU at a time may use, for a moment.
pub struct IrqLock<T> {
    taken: AtomicBool,
    inner: UnsafeCell<T>,
}

// SAFETY: `taken` lets one CPU at a time in.
unsafe impl<T: Send> Sync for IrqLock<T> {}

impl<T> IrqLock<T> {
    pub const fn new(inner: T) -> Self {
        Self {
            taken: AtomicBool::new(false),
            inner: UnsafeCell::new(inner),
        }
    }

    /// Runs `f` alone. `f` must not take the lock again.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let were_on = Bare.irq_disable();
        // Pairs with the release below.
        while self.taken.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        // SAFETY: `taken` was false, so nobody else is here; with interrupts
        // off no handler of this CPU gets here either.
        let result = f(unsafe { &mut *self.inner.get() });
        self.taken.store(false, Ordering::Release);
        // SAFETY: pairs with the above.
        unsafe { Bare.irq_restore(were_on) }
        result
    }
}
