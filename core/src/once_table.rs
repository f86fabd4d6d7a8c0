//! A table whose places are filled once, while others read it.
#![expect(unsafe_code, reason = "values that stay where they were published")]
use core::array;
use core::marker::PhantomData;
use core::ptr;

use waterbear_hal::Hal;
use waterbear_hal::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::Error;
use crate::mem::{Box, Heap, boxed};

/// Places per chunk. The model checker follows every atomic, so it gets few.
const PER_CHUNK: usize = if cfg!(loom) { 2 } else { 64 };
const CHUNKS: usize = if cfg!(loom) { 2 } else { 16 };

/// The number of places.
pub const LEN: usize = PER_CHUNK * CHUNKS;

/// [`LEN`] places for values of one kind, each filled at most once and emptied
/// only with the whole table. Readers take no lock.
///
/// # Invariants
///
/// A pointer that is not null came from a [`Box`] over this host's heap, which
/// the table owns, and never changes until the table is dropped.
pub struct OnceTable<T, H: Hal> {
    hal: H,
    chunks: [AtomicPtr<Chunk<T>>; CHUNKS],
    /// One more than the highest place that is filled.
    end: AtomicUsize,
    owns: PhantomData<T>,
}

struct Chunk<T> {
    values: [AtomicPtr<T>; PER_CHUNK],
}

// SAFETY: readers on any thread share the values and the last owner drops
// them, so they must be both; hosts are.
unsafe impl<T: Send + Sync, H: Hal> Send for OnceTable<T, H> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync, H: Hal> Sync for OnceTable<T, H> {}

impl<T, H: Hal> OnceTable<T, H> {
    /// An empty table. Allocates nothing.
    pub fn new(hal: &H) -> Self {
        Self {
            hal: hal.clone(),
            chunks: array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            end: AtomicUsize::new(0),
            owns: PhantomData,
        }
    }

    /// The value in place `index`, if there is one. Any context.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunk(index)?
            .values
            .get(index % PER_CHUNK)
            .and_then(|place| self.shared(place))
    }

    /// The values, in order. Any context.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        // Acquire: pairs with the update in `insert`.
        let end = self.end.load(Ordering::Acquire);
        (0..end).filter_map(|index| self.get(index))
    }

    /// Fills place `index`, for all to see. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such place, [`Error::Exists`] when
    /// it is filled, [`Error::NoMemory`]; `value` is dropped.
    pub fn insert(&self, index: usize, value: Box<T, H>) -> Result<&T, Error> {
        let chunk = match self.chunk(index) {
            Some(chunk) => chunk,
            None => self.add_chunk(index)?,
        };
        let place = chunk.values.get(index % PER_CHUNK).ok_or(Error::Invalid)?;
        let value = self.publish(place, value).ok_or(Error::Exists)?;
        // Release: whoever sees the new end sees the value. Pairs with `iter`.
        self.end.fetch_max(index + 1, Ordering::Release);
        Ok(value)
    }

    fn chunk(&self, index: usize) -> Option<&Chunk<T>> {
        self.shared(self.chunks.get(index / PER_CHUNK)?)
    }

    fn add_chunk(&self, index: usize) -> Result<&Chunk<T>, Error> {
        let place = self.chunks.get(index / PER_CHUNK).ok_or(Error::Invalid)?;
        let chunk = Chunk {
            values: array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        };
        // If another thread was faster its chunk is as good.
        self.publish(place, boxed(&self.hal, chunk)?)
            .or_else(|| self.shared(place))
            .ok_or(Error::Exists)
    }

    /// Puts `value` into an empty place of this table; `None` when it is not
    /// empty.
    fn publish<'a, P>(&'a self, place: &'a AtomicPtr<P>, value: Box<P, H>) -> Option<&'a P> {
        let (new, heap) = allocator_api2::boxed::Box::into_raw_with_allocator(value);
        // Release: readers that see the pointer see the value. Pairs with
        // `shared`.
        match place.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed) {
            // SAFETY: by the invariant the value stays as long as `self` is
            // borrowed.
            Ok(_) => Some(unsafe { &*new }),
            Err(_) => {
                // SAFETY: the pointer came from this box and was not published.
                drop(unsafe { Box::from_raw_in(new, heap) });
                None
            }
        }
    }

    /// What is in a place of this table.
    fn shared<'a, P>(&'a self, place: &'a AtomicPtr<P>) -> Option<&'a P> {
        // Acquire: pairs with `publish`.
        let value = place.load(Ordering::Acquire);
        // SAFETY: by the invariant it is null, or a value that stays as long
        // as `self` is borrowed.
        unsafe { value.as_ref() }
    }
}

impl<T, H: Hal> Drop for OnceTable<T, H> {
    fn drop(&mut self) {
        let heap = Heap(self.hal.clone());
        for place in &self.chunks {
            let chunk = place.load(Ordering::Relaxed);
            if chunk.is_null() {
                continue;
            }
            // SAFETY: by the invariant the table owns the box, and with
            // `&mut self` nobody borrows it.
            let chunk = unsafe { Box::from_raw_in(chunk, heap.clone()) };
            for place in &chunk.values {
                let value = place.load(Ordering::Relaxed);
                if !value.is_null() {
                    // SAFETY: as above.
                    drop(unsafe { Box::from_raw_in(value, heap.clone()) });
                }
            }
        }
    }
}
