//! Atomics as the model checker sees them, all of whose orders it explores.
//!
//! Loom decides where to switch threads by looking, for each access, at the one
//! access before it that it conflicts with. It remembers only the latest: when
//! a thread loads a value and then changes it, its own load hides the loads of
//! other threads from the change, and the order "change, then their load" is
//! never tried. "Load, then compare-exchange" is what page tables are made of,
//! and models of it passed after one run.
//!
//! So each atomic here has a companion, and each operation first does a relaxed
//! read-modify-write of it. Those conflict with each other without exception,
//! so every order of them is tried, and with them every order of the
//! operations. They synchronise nothing, so a load may still return an old
//! value.
use core::fmt;

pub use loom::sync::atomic::{Ordering, fence};

/// Reading or writing the value of the atomic whose companion this is: a point
/// at which the checker switches threads.
struct Turn(loom::sync::atomic::AtomicU8);

impl Turn {
    #[track_caller]
    fn new() -> Self {
        Self(loom::sync::atomic::AtomicU8::new(0))
    }

    #[track_caller]
    fn take(&self) {
        self.0.fetch_add(0, Ordering::Relaxed);
    }

    /// Takes a turn and runs `change`, which always meets the latest value: so
    /// there is nothing to be gained from another switch in between.
    #[track_caller]
    fn change<R>(&self, change: impl FnOnce() -> R) -> R {
        self.take();
        loom::stop_exploring();
        let result = change();
        loom::explore();
        result
    }
}

macro_rules! cell {
    ($(#[$doc:meta])* $name:ident $(<$t:ident>)?, $value:ty) => {
        $(#[$doc])*
        pub struct $name $(<$t>)? {
            inner: loom::sync::atomic::$name $(<$t>)?,
            turn: Turn,
        }

        impl $(<$t>)? $name $(<$t>)? {
            /// With this value.
            #[track_caller]
            pub fn new(value: $value) -> Self {
                Self {
                    inner: loom::sync::atomic::$name::new(value),
                    turn: Turn::new(),
                }
            }

            /// The value, or an older one that `order` allows.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                self.turn.take();
                self.inner.load(order)
            }

            /// Replaces the value.
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                self.turn.change(|| self.inner.store(value, order));
            }

            /// Replaces the value and returns what it was.
            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.turn.change(|| self.inner.swap(value, order))
            }

            /// Replaces the value if it is `current`.
            ///
            /// # Errors
            ///
            /// What it is instead.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let change = || self.inner.compare_exchange(current, new, success, failure);
                self.turn.change(change)
            }

            /// As `compare_exchange`; the checker never lets it fail for no
            /// reason.
            ///
            /// # Errors
            ///
            /// What it is instead.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            /// Replaces the value by what `f` makes of it, until nobody
            /// interferes or `f` declines.
            ///
            /// # Errors
            ///
            /// The value that `f` declined.
            #[track_caller]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut value = self.load(failure);
                while let Some(new) = f(value) {
                    match self.compare_exchange(value, new, success, failure) {
                        Ok(old) => return Ok(old),
                        Err(now) => value = now,
                    }
                }
                Err(value)
            }
        }

        impl $(<$t>)? fmt::Debug for $name $(<$t>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.inner.fmt(f)
            }
        }
    };
}

macro_rules! arithmetic {
    ($name:ident, $value:ty, $($op:ident)*) => {
        impl $name {
            $(
                /// As the standard library's.
                #[track_caller]
                pub fn $op(&self, value: $value, order: Ordering) -> $value {
                    self.turn.change(|| self.inner.$op(value, order))
                }
            )*
        }
    };
}

macro_rules! integers {
    ($($name:ident, $value:ty;)*) => {
        $(
            cell! {
                /// An integer.
                $name, $value
            }
            arithmetic!($name, $value,
                fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min);
        )*
    };
}

integers! {
    AtomicU8, u8;
    AtomicU16, u16;
    AtomicU32, u32;
    AtomicU64, u64;
    AtomicUsize, usize;
    AtomicI64, i64;
}

cell! {
    /// True or false.
    AtomicBool, bool
}
arithmetic!(AtomicBool, bool, fetch_and fetch_or fetch_xor);

cell! {
    /// A pointer.
    AtomicPtr<T>, *mut T
}
