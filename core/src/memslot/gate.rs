//! Unmap notifications against publishing (MS-10).
//!
//! The host announces that it takes pages away, does it, and says that it is
//! done. Both calls look at the slots. If the set changed in between, the end
//! would miss a slot that the beginning saw, or see one too many. So a new set
//! is published only while no notification is between its two calls.
//!
//! A notification must not wait for a lock of ours, so it is the publisher who
//! waits. Only the store of the pointer excludes notifications, and a
//! notification that comes just then spins for that long.
use waterbear_hal::sync::atomic::{AtomicU64, Ordering};
use waterbear_hal::sync::spin_hint;
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Hal, Pinned, WaitQueue};

use crate::Error;

/// The pointer is being stored.
const PUBLISHING: u64 = 1 << 63;
/// A publisher sleeps until there is no notification.
const WAITING: u64 = 1 << 62;
/// The number of notifications that have begun and not ended.
const ACTIVE: u64 = WAITING - 1;

/// Keeps notifications and publishing apart.
pub struct Gate<H: Hal> {
    hal: H,
    word: AtomicU64,
    idle: H::WaitQueue,
}

impl<H: Hal> Gate<H> {
    /// Makes a gate. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            word: AtomicU64::new(0),
            idle: hal.new_wait_queue()?,
        })
    }

    /// A notification begins: no set is published until it ends. Interrupts
    /// on; does not sleep; spins at most for one store. Notifications may
    /// overlap and nest.
    ///
    /// Between this and [`end`](Gate::end) the caller must not wait for
    /// `slots_lock` or `slots_arch_lock`: their holder may be waiting for the
    /// end.
    pub fn begin(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & PUBLISHING != 0 {
                spin_hint();
                word = self.word.load(Ordering::Relaxed);
                continue;
            }
            // Acquire: a notification sees the set that was published before
            // it began, and looks at none before it has. Pairs with the
            // release at the end of `publish`.
            match self.word.compare_exchange_weak(
                word,
                word + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// A notification ends. Interrupts on; does not sleep.
    pub fn end(&self) {
        // Release: what the notification did with the old set comes before the
        // next set. Pairs with the acquire in `publish`.
        let ended = self
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
                (word & ACTIVE != 0).then(|| word - 1)
            });
        match ended {
            // The last one, and somebody waits. All changes of the word are in
            // one order: either `publish` set WAITING before this, and we see
            // it, or after, and then it sees no notification and does not
            // sleep.
            Ok(word) if word & ACTIVE == 1 && word & WAITING != 0 => {
                if !removed(Part::NotificationWake) {
                    self.idle.wake();
                }
            }
            Ok(_) => {}
            Err(_) => self.hal.bug("a notification ended that had not begun"),
        }
    }

    /// Runs `store`, which publishes a set, while no notification is between
    /// its beginning and its end. May sleep as long as notifications keep
    /// overlapping. One publisher at a time: the caller holds
    /// `slots_arch_lock` and `slots_lock`.
    pub(super) fn publish<T>(&self, store: impl FnOnce() -> T) -> T {
        if removed(Part::PublishGate) {
            return store();
        }
        // Relaxed: the compare-exchange below is what orders.
        self.word.fetch_or(WAITING, Ordering::Relaxed);
        loop {
            self.idle
                .wait(false, || self.word.load(Ordering::Relaxed) & ACTIVE == 0);
            // Notifications spin until the bit is gone, so its holder must not
            // lose the CPU to one of them.
            let _pinned = Pinned::new(&self.hal);
            // Acquire: every notification that has ended came before the store.
            // Pairs with the release in `end`.
            let alone = self.word.compare_exchange(
                WAITING,
                PUBLISHING,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if alone.is_ok() {
                let stored = store();
                // Release: pairs with the acquire in `begin`.
                self.word.store(0, Ordering::Release);
                return stored;
            }
        }
    }
}
