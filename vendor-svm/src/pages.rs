//! Pages that hardware reads by physical address.
#![expect(unsafe_code, reason = "memory that is shared with hardware")]
use core::ptr::NonNull;
use core::slice;

use waterbear_core::Error;
use waterbear_hal::{Hal, Hpa, Pfn};

use crate::vmcb::Vmcb;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Contiguous pages of this value's own, all zero at first.
pub struct Pages<H: Hal> {
    hal: H,
    first: Pfn,
    count: usize,
}

impl<H: Hal> Pages<H> {
    /// Allocates them. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    #[inline(never)]
    pub fn new(hal: &H, count: usize) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            first: hal.alloc_pages(count)?,
            count,
        })
    }

    /// Where hardware finds one of them.
    pub fn hpa(&self, number: usize) -> Hpa {
        Hpa(self.first.hpa().0.wrapping_add((number * PAGE) as u64))
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: the pages are this value's until it is dropped.
        unsafe { self.hal.pages(self.first) }
    }

    /// All bytes. Hardware must not write them while they are borrowed.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `count` initialised pages that are this value's.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.count * PAGE) }
    }
}

impl<H: Hal> Drop for Pages<H> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, and whoever owned this value keeps no
        // CPU that uses it.
        unsafe { self.hal.free_pages(self.first, self.count) }
    }
}

/// A control block on a page of its own.
///
/// # Invariants
///
/// `fields` is where the only page is.
pub struct Block<H: Hal> {
    page: Pages<H>,
    fields: NonNull<Vmcb>,
}

// SAFETY: a block owns what it points to.
unsafe impl<H: Hal> Send for Block<H> {}

impl<H: Hal> Block<H> {
    /// Allocates it, all zero. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        let page = Pages::new(hal, 1)?;
        let fields = page.start().cast();
        Ok(Self { page, fields })
    }

    /// Where hardware finds it.
    pub fn hpa(&self) -> Hpa {
        self.page.hpa(0)
    }

    /// Makes it all zeros again.
    pub fn clear(&mut self) {
        self.page.bytes().fill(0);
    }

    /// Its fields. Hardware uses them only inside [`world::run`](crate::world::run), which wants
    /// this value back first.
    #[inline(always)]
    pub fn fields(&mut self) -> &mut Vmcb {
        // SAFETY: by the invariant one page, aligned, initialised to zero and then by us, of
        // integers and bit sets that take any value.
        unsafe { self.fields.as_mut() }
    }
}

/// A control block of zeros that no hardware knows, for tests.
#[cfg(all(test, not(loom)))]
pub fn empty_block() -> Vmcb {
    // SAFETY: integers and bit sets, which may be zero.
    unsafe { core::mem::zeroed() }
}
