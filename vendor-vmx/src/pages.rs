//! Pages that hardware reads by physical address.
#![expect(unsafe_code, reason = "memory that the host's pages are")]
use waterbear_core::Error;
use waterbear_hal::{Hal, Hpa, Pfn};

/// One page.
pub struct Page<H: Hal> {
    hal: H,
    pfn: Pfn,
}

impl<H: Hal> Page<H> {
    /// A page that begins with `bytes`; the rest is zero. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, bytes: &[u8]) -> Result<Self, Error> {
        let pfn = hal.alloc_pages(1)?;
        let page = Self {
            hal: hal.clone(),
            pfn,
        };
        // SAFETY: the page is ours until it is freed.
        let start = unsafe { hal.pages(pfn) };
        let count = bytes.len().min(4096);
        // SAFETY: `count` bytes of either, which do not overlap.
        unsafe {
            start
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), count)
        }
        Ok(page)
    }

    /// Where hardware finds it.
    pub fn address(&self) -> Hpa {
        self.pfn.hpa()
    }
}

impl<H: Hal> Drop for Page<H> {
    fn drop(&mut self) {
        // SAFETY: from `new`; whoever owned this value keeps no CPU that uses
        // it.
        unsafe { self.hal.free_pages(self.pfn, 1) }
    }
}
