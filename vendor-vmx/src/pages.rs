//! Pages that hardware reads by physical address.
#![expect(unsafe_code, reason = "memory that the host's pages are")]
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_hal::{Hal, Hpa, Pfn};

const PAGE: usize = 4096;

/// One page.
///
/// # Invariants
///
/// `pfn` is one page of `hal`'s `alloc_pages`, and this value's until it is dropped.
pub struct Page<H: Hal> {
    hal: H,
    pfn: Pfn,
}

impl<H: Hal> Page<H> {
    /// A page that begins with this word; the rest is zero. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    #[inline(never)]
    pub fn new(hal: &H, first: u32) -> Result<Self, Error> {
        let page = Self {
            hal: hal.clone(),
            pfn: hal.alloc_pages(1)?,
        };
        // Relaxed: nobody else knows of it.
        page.words()[0].store(first.into(), Ordering::Relaxed);
        Ok(page)
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64; PAGE / 8] {
        // SAFETY: by the invariant.
        let start = unsafe { self.hal.pages(self.pfn) };
        // SAFETY: a page, aligned to one, that was zeroed; `bytes` wants this value to itself.
        unsafe { start.cast().as_ref() }
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8; PAGE] {
        // SAFETY: by the invariant.
        let start = unsafe { self.hal.pages(self.pfn) };
        // SAFETY: a page that was zeroed, and nobody else refers to it.
        unsafe { start.cast().as_mut() }
    }

    /// Where hardware finds it.
    pub fn address(&self) -> Hpa {
        self.pfn.hpa()
    }
}

impl<H: Hal> Drop for Page<H> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: by the invariant; whoever owned this value keeps no CPU that uses
        // it.
        unsafe { self.hal.free_pages(self.pfn, 1) }
    }
}
