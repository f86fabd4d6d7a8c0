//! Heap memory that may run out, shared ownership, and pages shared with user space.
//!
//! Boxes and vectors are those of `allocator-api2` over the host's allocator,
//! because the standard ones abort when memory runs out. Only their fallible
//! constructors are used.
#![expect(unsafe_code, reason = "an allocator, a reference count, raw pages")]
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use allocator_api2::alloc::{AllocError, Allocator};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::sync::atomic::{AtomicUsize, Ordering, fence};
use waterbear_hal::{Hal, Pfn};

use crate::Error;

/// The host's heap as an allocator.
#[derive(Clone)]
pub struct Heap<H>(pub H);

/// Owned heap memory.
pub type Box<T, H> = allocator_api2::boxed::Box<T, Heap<H>>;
/// A growable array. Grow it with `try_reserve` only.
pub type Vec<T, H> = allocator_api2::vec::Vec<T, Heap<H>>;

// SAFETY: the host promises that its memory is used by nothing else until it
// is freed; a clone of `Heap` refers to the same host; an empty block is a
// dangling pointer that is never freed.
unsafe impl<H: Hal> Allocator for Heap<H> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.allocate_zeroed(layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let start = if layout.size() == 0 {
            NonNull::without_provenance(
                core::num::NonZeroUsize::new(layout.align()).ok_or(AllocError)?,
            )
        } else {
            self.0.alloc_bytes(layout).map_err(|_| AllocError)?
        };
        Ok(NonNull::slice_from_raw_parts(start, layout.size()))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller passes what `allocate` returned for this
            // layout, and that came from `alloc_bytes`.
            unsafe { self.0.free_bytes(ptr, layout) }
        }
    }
}

/// Puts `value` on the heap. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`]; `value` is dropped.
pub fn boxed<T, H: Hal>(hal: &H, value: T) -> Result<Box<T, H>, Error> {
    Ok(Box::try_new_in(value, Heap(hal.clone()))?)
}

/// Makes an array of `len` values. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`].
pub fn array<T, H: Hal>(
    hal: &H,
    len: usize,
    mut value: impl FnMut(usize) -> T,
) -> Result<Box<[T], H>, Error> {
    let mut values = room(hal, len)?;
    for i in 0..len {
        push(&mut values, value(i));
    }
    Ok(boxed_slice(values))
}

/// An empty array with room for `len` values, for [`push`]. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`].
pub fn room<T, H: Hal>(hal: &H, len: usize) -> Result<Vec<T, H>, Error> {
    let layout = Layout::array::<T>(len).map_err(|_| Error::NoMemory)?;
    let heap = Heap(hal.clone());
    let start = block(&heap, layout)?.cast::<T>();
    // SAFETY: a block of this heap for as many values, none of which is there.
    Ok(unsafe { Vec::from_raw_parts_in(start.as_ptr(), 0, len, heap) })
}

/// Memory of a size that the compiler does not know.
#[inline(never)]
fn block<H: Hal>(heap: &Heap<H>, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    heap.allocate(layout)
}

/// Appends a value to an array that has [`room`] for it: without, the value is
/// dropped. So there is no code here that would allocate.
pub fn push<T, H: Hal>(values: &mut Vec<T, H>, value: T) {
    if let Some(place) = values.spare_capacity_mut().first_mut() {
        place.write(value);
        let len = values.len() + 1;
        // SAFETY: within the capacity, and the last value is there now.
        unsafe { values.set_len(len) }
    }
}

/// A copy of `old` without the element at `without`, and with `add` before the
/// element that its place in `old` names. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`].
pub fn edited<T: Clone, H: Hal>(
    hal: &H,
    old: &[T],
    without: Option<usize>,
    mut add: Option<(usize, T)>,
) -> Result<Vec<T, H>, Error> {
    let mut new = room(hal, old.len() + 1)?;
    for i in 0..=old.len() {
        if let Some((_, value)) = add.take_if(|(place, _)| *place == i) {
            push(&mut new, value);
        }
        if let Some(value) = old.get(i)
            && without != Some(i)
        {
            push(&mut new, value.clone());
        }
    }
    Ok(new)
}

/// An array that is as long as the room that it was given.
fn boxed_slice<T, H: Hal>(values: Vec<T, H>) -> Box<[T], H> {
    let (start, len, _, heap) = values.into_raw_parts_with_alloc();
    // SAFETY: the block is of this heap and of this length.
    unsafe { Box::from_raw_in(core::ptr::slice_from_raw_parts_mut(start, len), heap) }
}

/// Makes an array of `len` zeros. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`].
pub fn zeros<H: Hal>(hal: &H, len: usize) -> Result<Box<[u64], H>, Error> {
    let mut words = room(hal, len)?;
    // SAFETY: within the capacity just reserved, and the host's memory is zeroed.
    unsafe { words.set_len(len) };
    Ok(boxed_slice(words))
}

const _: () = assert!(cfg!(target_endian = "little"));

/// The bytes of some words, the lowest of each first.
pub fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: as many bytes, all of which are initialised.
    unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// As [`bytes_of`], to be written.
pub fn bytes_of_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: as above, borrowed from who may write them; any bytes make words.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// Shared ownership of a value: freed with its last handle.
///
/// The standard library's has no fallible constructor, and no weak references
/// are needed here.
pub struct Shared<T, H: Hal> {
    inner: NonNull<Counted<T, H>>,
}

#[repr(C)]
struct Counted<T, H> {
    handles: AtomicUsize,
    hal: H,
    value: T,
}

// SAFETY: a handle gives shared access to `T` from any thread and the last one
// drops it on any thread, so `T` must be both `Send` and `Sync`; hosts are.
unsafe impl<T: Send + Sync, H: Hal> Send for Shared<T, H> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync, H: Hal> Sync for Shared<T, H> {}

impl<T, H: Hal> Shared<T, H> {
    /// Puts `value` on the heap with one handle. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; `value` is dropped.
    pub fn new(hal: &H, value: T) -> Result<Self, Error> {
        let counted = boxed(
            hal,
            Counted {
                handles: AtomicUsize::new(1),
                hal: hal.clone(),
                value,
            },
        )?;
        let (ptr, _heap) = allocator_api2::boxed::Box::into_non_null_with_allocator(counted);
        Ok(Self { inner: ptr })
    }

    /// The last handle is gone.
    ///
    /// # Safety
    ///
    /// Nobody else refers to the allocation.
    #[cold]
    #[inline(never)]
    unsafe fn free(inner: NonNull<Counted<T, H>>) {
        // SAFETY: not freed yet.
        let heap = Heap(unsafe { inner.as_ref() }.hal.clone());
        // SAFETY: as the caller says, and `new` took it from a box over this heap.
        drop(unsafe { Box::from_raw_in(inner.as_ptr(), heap) });
    }

    /// Whether both handles are to the same value.
    pub fn same(a: &Self, b: &Self) -> bool {
        a.inner == b.inner
    }

    fn counted(&self) -> &Counted<T, H> {
        // SAFETY: a handle keeps the allocation alive, and nobody holds a
        // `&mut` to it while handles exist.
        unsafe { self.inner.as_ref() }
    }
}

impl<T, H: Hal> Clone for Shared<T, H> {
    fn clone(&self) -> Self {
        // Relaxed: the new handle is made from one that keeps the value alive.
        // Handles are stored in kernel objects, far fewer than 2^63.
        self.counted().handles.fetch_add(1, Ordering::Relaxed);
        Self { inner: self.inner }
    }
}

impl<T, H: Hal> Deref for Shared<T, H> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T, H: Hal> Drop for Shared<T, H> {
    #[inline(never)]
    fn drop(&mut self) {
        // Release: what this handle did to the value comes before its drop.
        // Pairs with the fence below.
        if self.counted().handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Pairs with the decrement of every other handle.
        fence(Ordering::Acquire);
        // SAFETY: this was the last handle, so nobody else refers to it.
        unsafe { Self::free(self.inner) }
    }
}

impl<T, H: Hal, const N: usize> Shared<[T; N], H> {
    /// As [`new`](Shared::new), made where it stays: it is large, and the
    /// stack is not.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn from_fn(hal: &H, mut value: impl FnMut(usize) -> T) -> Result<Self, Error> {
        let empty = Counted {
            handles: AtomicUsize::new(1),
            hal: hal.clone(),
            value: [const { MaybeUninit::uninit() }; N],
        };
        let mut counted = boxed(hal, empty)?;
        for (i, place) in counted.value.iter_mut().enumerate() {
            place.write(value(i));
        }
        let (ptr, _heap) = allocator_api2::boxed::Box::into_non_null_with_allocator(counted);
        // Laid out alike, and every value is there.
        let inner = ptr.cast();
        Ok(Self { inner })
    }
}

/// A page that user space may map: zero at first, and anybody's to write. A port that maps it sees
/// to it that the page is not used for anything else while it is mapped.
///
/// # Invariants
///
/// `pfn` is one page of `hal`'s `alloc_pages`, which nobody uses but as atomics.
pub struct UserPage<H: Hal> {
    hal: H,
    pfn: Pfn,
}

impl<H: Hal> UserPage<H> {
    /// A page. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            pfn: hal.alloc_pages(1)?,
        })
    }

    /// Its frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// What is in it now. User space is no part of what the model checker knows, so these are not
    /// its atomics.
    pub fn words(&self) -> &[AtomicU32; PAGE_SIZE as usize / 4] {
        // SAFETY: by the invariant; it is freed only when this is dropped.
        let start = unsafe { self.hal.pages(self.pfn) };
        // SAFETY: a page, aligned to one, that was zeroed; only atomics are used in the kernel.
        unsafe { start.cast().as_ref() }
    }
}

impl<H: Hal> Drop for UserPage<H> {
    fn drop(&mut self) {
        // SAFETY: by the invariant, and nobody has a reference to `self`.
        unsafe { self.hal.free_pages(self.pfn, 1) }
    }
}
