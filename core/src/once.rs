//! An array that is allocated when its first user comes.
#![expect(unsafe_code, reason = "a pointer that is set once")]
use core::marker::PhantomData;

use waterbear_hal::Hal;
use waterbear_hal::sync::atomic::{AtomicPtr, Ordering};

use crate::Error;
use crate::mem::{Box, Heap, array};

/// An array of a length fixed at creation, whose memory is allocated later or
/// never. Once there it stays until the owner is dropped.
///
/// # Invariants
///
/// `first` is null, or the start of a boxed slice of `len` values over this
/// host's heap. It changes once, from null.
pub struct OnceArray<T, H: Hal> {
    hal: H,
    len: usize,
    first: AtomicPtr<T>,
    owns: PhantomData<T>,
}

// SAFETY: owning the array is owning its values.
unsafe impl<T: Send, H: Hal> Send for OnceArray<T, H> {}
// SAFETY: threads share the values, and one thread may fill the array that
// another drops, so they must be both.
unsafe impl<T: Send + Sync, H: Hal> Sync for OnceArray<T, H> {}

impl<T, H: Hal> OnceArray<T, H> {
    /// Makes an array of `len` values that is not there yet. Does not allocate.
    pub fn new(hal: &H, len: usize) -> Self {
        Self {
            hal: hal.clone(),
            len,
            first: AtomicPtr::new(core::ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// The values, if they are there.
    pub fn get(&self) -> Option<&[T]> {
        // Acquire: who sees the pointer sees the values. Pairs with `fill`.
        let first = self.first.load(Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: by the invariant these are `len` values that live as long as
        // `self`, and nobody has a `&mut` to them.
        Some(unsafe { core::slice::from_raw_parts(first, self.len) })
    }

    /// Allocates the array unless it is there. May sleep. When two threads try
    /// at once, one array stays.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; nothing has changed.
    pub fn fill(&self, value: impl FnMut(usize) -> T) -> Result<(), Error> {
        if self.get().is_some() {
            return Ok(());
        }
        let values = array(&self.hal, self.len, value)?;
        let first = allocator_api2::boxed::Box::into_raw_with_allocator(values)
            .0
            .cast::<T>();
        // Release: the values come before the pointer. Pairs with `get`.
        let set = self.first.compare_exchange(
            core::ptr::null_mut(),
            first,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if set.is_err() {
            // SAFETY: the pointer came from the box above and nobody saw it.
            unsafe { self.free(first) }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// `first` is the start of a boxed slice as in the invariant, and nobody
    /// uses it any more.
    unsafe fn free(&self, first: *mut T) {
        let values = core::ptr::slice_from_raw_parts_mut(first, self.len);
        // SAFETY: as the caller says.
        drop(unsafe { Box::from_raw_in(values, Heap(self.hal.clone())) });
    }
}

impl<T, H: Hal> Drop for OnceArray<T, H> {
    fn drop(&mut self) {
        // Relaxed: with `&mut self` every other thread's use came before.
        let first = self.first.load(Ordering::Relaxed);
        if !first.is_null() {
            // SAFETY: by the invariant, and nobody else has `self`.
            unsafe { self.free(first) }
        }
    }
}
