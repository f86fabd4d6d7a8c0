//! Values that readers use while a writer replaces them.
#![expect(unsafe_code, reason = "a pointer that a grace period keeps valid")]
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use waterbear_hal::sync::atomic::{AtomicPtr, Ordering};
use waterbear_hal::{Hal, Srcu};

use crate::Error;
use crate::mem::{Box, Heap};

/// `N` values of one kind, each replaced as a whole, under one domain of
/// sleepable read sections.
///
/// # Invariants
///
/// Each pointer comes from a [`Box`] over this host's heap. A box that was
/// replaced is dropped only after every section that was open at the time of
/// the replacement has been closed.
pub struct Published<H: Hal, T, const N: usize> {
    hal: H,
    domain: H::Srcu,
    values: [AtomicPtr<T>; N],
    owns: PhantomData<T>,
}

// SAFETY: readers on any thread share the values and the last owner drops
// them, so they must be both; hosts and domains are.
unsafe impl<H: Hal, T: Send + Sync, const N: usize> Send for Published<H, T, N> {}
// SAFETY: as for `Send`.
unsafe impl<H: Hal, T: Send + Sync, const N: usize> Sync for Published<H, T, N> {}

impl<H: Hal, T, const N: usize> Published<H, T, N> {
    /// Publishes the first values. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, values: [Box<T, H>; N]) -> Result<Self, Error> {
        let domain = hal.new_srcu()?;
        Ok(Self {
            hal: hal.clone(),
            domain,
            values: values.map(|value| AtomicPtr::new(into_raw(value))),
            owns: PhantomData,
        })
    }

    /// Opens a read section. It may sleep and does not nest.
    pub fn read(&self) -> Section<'_, H, T, N> {
        Section {
            token: self.domain.lock(),
            of: self,
            not_send: PhantomData,
        }
    }

    /// Opens a read section if that needs no wait. Interrupts may be off until
    /// it is closed.
    pub fn try_read(&self) -> Option<Section<'_, H, T, N>> {
        Some(Section {
            token: self.domain.try_lock()?,
            of: self,
            not_send: PhantomData,
        })
    }

    /// Puts `value` in place `index`; readers see the old one or the new one.
    /// The caller serialises replacements, and waits before the old value goes.
    /// `index` is below `N`.
    pub fn replace(&self, index: usize, value: Box<T, H>) -> Retired<'_, H, T, N> {
        // AcqRel: readers that see the pointer see the value (pairs with
        // `Section::get`), and we see all of the old value.
        let old = self.values[index].swap(into_raw(value), Ordering::AcqRel);
        Retired {
            old,
            waited: false,
            of: self,
        }
    }

    /// Waits until every section that is open now has been closed. May sleep;
    /// not inside a section.
    pub fn synchronize(&self) {
        self.domain.synchronize();
    }
}

impl<H: Hal, T, const N: usize> Drop for Published<H, T, N> {
    fn drop(&mut self) {
        for value in &self.values {
            let ptr = value.load(Ordering::Relaxed);
            // SAFETY: by the invariant the pointer comes from such a box, and
            // with `&mut self` there is no section left.
            drop(unsafe { Box::from_raw_in(ptr, Heap(self.hal.clone())) });
        }
    }
}

fn into_raw<T, H: Hal>(value: Box<T, H>) -> *mut T {
    allocator_api2::boxed::Box::into_raw_with_allocator(value).0
}

/// A value that was replaced and that readers may still use.
#[must_use = "readers may still use it: wait for them"]
pub struct Retired<'a, H: Hal, T, const N: usize> {
    old: *mut T,
    /// Whether every section that could have seen the value is closed.
    waited: bool,
    of: &'a Published<H, T, N>,
}

impl<H: Hal, T, const N: usize> Retired<'_, H, T, N> {
    /// Looks at the value, which is alive as long as this.
    pub fn get(&self) -> &T {
        // SAFETY: the box is dropped or given away by functions that consume
        // this.
        unsafe { &*self.old }
    }

    /// Waits, once, until nobody else uses the value. May sleep; not inside a
    /// section.
    pub fn wait_for_readers(&mut self) {
        if !self.waited {
            self.of.synchronize();
            self.waited = true;
        }
    }

    /// Waits for its readers and drops it. May sleep; not inside a section.
    pub fn wait(self) {
        drop(self);
    }

    /// Waits for the value's readers and gives it back. Does not allocate, so
    /// an update that fails half-way can publish the old value again.
    pub fn reclaim(mut self) -> Box<T, H> {
        self.wait_for_readers();
        let this = ManuallyDrop::new(self);
        // SAFETY: the pointer comes from such a box by the invariant; it was
        // unlinked by `replace`, every section that could have seen it has
        // been closed, and `drop` does not run.
        unsafe { Box::from_raw_in(this.old, Heap(this.of.hal.clone())) }
    }
}

impl<H: Hal, T, const N: usize> Drop for Retired<'_, H, T, N> {
    fn drop(&mut self) {
        self.wait_for_readers();
        // SAFETY: as in `reclaim`, and this runs once.
        drop(unsafe { Box::from_raw_in(self.old, Heap(self.of.hal.clone())) });
    }
}

/// A read section: what it returns lives as long as the section.
pub struct Section<'a, H: Hal, T, const N: usize> {
    token: usize,
    of: &'a Published<H, T, N>,
    not_send: PhantomData<*mut ()>,
}

impl<H: Hal, T, const N: usize> Section<'_, H, T, N> {
    /// The current value in place `index`, which is below `N`.
    pub fn get(&self, index: usize) -> &T {
        // Pairs with `Published::replace`.
        let ptr = self.of.values[index].load(Ordering::Acquire);
        // SAFETY: the pointer was current within this section, so by the
        // invariant the box outlives it.
        unsafe { &*ptr }
    }
}

impl<H: Hal, T> Deref for Section<'_, H, T, 1> {
    type Target = T;
    fn deref(&self) -> &T {
        self.get(0)
    }
}

impl<H: Hal, T, const N: usize> Drop for Section<'_, H, T, N> {
    fn drop(&mut self) {
        // SAFETY: `read` opened the section on this thread; the guard is not
        // `Send`.
        unsafe { self.of.domain.unlock(self.token) }
    }
}
