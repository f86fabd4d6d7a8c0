//! Bells: descriptors that count how often they are rung.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use waterbear_hal::BellError;

use crate::leaks::Alive;
use crate::sys::book;
use crate::{Mock, broken};

/// The descriptors of the machine's process; those of something else have no count.
#[derive(Default)]
pub(crate) struct Descriptors {
    book: Mutex<HashMap<i32, Option<Arc<AtomicU64>>>>,
}

/// A reference to a bell.
pub struct Bell {
    count: Arc<AtomicU64>,
    alive: Alive,
}

impl waterbear_hal::Bell for Bell {
    #[track_caller]
    fn ring(&self) {
        self.alive.machine().needs_irqs_on("ring");
        if self.count.fetch_add(1, SeqCst) == u64::MAX {
            broken!("a bell is rung too often");
        }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.count, &other.count)
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Makes the descriptor a new bell's; the result is how often that bell was rung.
    pub fn open_bell(&self, descriptor: i32) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        book(&self.0.descriptors.book).insert(descriptor, Some(Arc::clone(&count)));
        count
    }

    /// Makes the descriptor that of something that is no bell.
    pub fn open_other(&self, descriptor: i32) {
        book(&self.0.descriptors.book).insert(descriptor, None);
    }

    /// Closes a descriptor.
    pub fn close(&self, descriptor: i32) {
        book(&self.0.descriptors.book).remove(&descriptor);
    }

    /// [`User::bell`](waterbear_hal::User::bell).
    #[track_caller]
    pub(crate) fn find_bell(&self, descriptor: i32) -> Result<Bell, BellError> {
        self.0.may_sleep("bell");
        self.0.inject.allocation()?;
        let book = book(&self.0.descriptors.book);
        let found = book.get(&descriptor).ok_or(BellError::NoDescriptor)?;
        Ok(Bell {
            count: Arc::clone(found.as_ref().ok_or(BellError::NotABell)?),
            alive: Alive::new(&self.0, |live| &live.bells),
        })
    }
}
