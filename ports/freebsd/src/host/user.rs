//! Memory of the process that owns a VM. The kernel does not tell of its
//! changes, so the guest's pages are pinned while the guest can reach them.
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_hal::{
    AllocError, BellError, HostPage, Hva, Level, NoBell, Pfn, ResolveError, User, Width,
};

use super::{FreeBsd, allocated};
use crate::glue::{self, SpaceStruct};

/// The memory of a process, held, and how many pages of it a VM may pin.
pub struct Space(NonNull<SpaceStruct>, AtomicU64);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Space {}
// SAFETY: as above.
unsafe impl Sync for Space {}

impl Space {
    /// That of the calling process.
    pub fn of_caller() -> Result<Self, AllocError> {
        let space = allocated(glue::wb_space_hold())?;
        Ok(Self(space, AtomicU64::new(0)))
    }

    /// Whether it is that of the calling process.
    pub fn is_callers(&self) -> bool {
        glue::wb_space_is_current(self.0.as_ptr())
    }
}

impl Space {
    /// Makes the number of pages that the VM may pin another one. Says whether the limit of the
    /// calling process lets it. One at a time.
    pub fn charge(&self, pages: u64) -> bool {
        // Relaxed: the caller has a lock.
        let before = self.1.load(Ordering::Relaxed);
        // SAFETY: held; so many have been charged.
        let fits = unsafe { glue::wb_space_charge(self.0.as_ptr(), before, pages) };
        if fits {
            self.1.store(pages, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.charge(0);
        // SAFETY: pairs with the hold in `of_caller`.
        unsafe { glue::wb_space_drop(self.0.as_ptr()) }
    }
}

impl User for FreeBsd {
    const HAS_NOTIFIER: bool = false;

    type Space = Space;

    /// `vm_fault_quick_hold_pages`. A page of a large mapping could go while
    /// another one is held, so every page is on its own.
    fn resolve(&self, space: &Space, hva: Hva, write: bool) -> Result<HostPage, ResolveError> {
        let (mut pfn, mut writable, mut uncached) = (0, false, false);
        // SAFETY: the structure is held; the results are ours.
        accessed(unsafe {
            glue::wb_resolve(
                space.0.as_ptr(),
                hva.0,
                write,
                &raw mut pfn,
                &raw mut writable,
                &raw mut uncached,
            )
        })?;
        Ok(HostPage {
            pfn: Pfn(pfn),
            writable,
            uncached,
            level: Level::L1,
        })
    }

    /// `vm_page_dirty`, `vm_page_unwire`.
    fn release(&self, pfn: Pfn, dirty: bool) {
        // SAFETY: the caller gives back a reference that `resolve` took.
        unsafe { glue::wb_release_page(pfn.0, dirty) }
    }

    /// `fueword64` and its like for what is one access, else `copyin`.
    fn read(&self, space: &Space, hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError> {
        // SAFETY: the buffer has that many bytes; the kernel checks the rest.
        accessed(unsafe { glue::wb_read(space.0.as_ptr(), buf.as_mut_ptr(), hva.0, buf.len()) })
    }

    /// `suword64` and its like for what is one access, else `copyout`.
    fn write(&self, space: &Space, hva: Hva, bytes: &[u8]) -> Result<(), ResolveError> {
        // SAFETY: as above.
        accessed(unsafe { glue::wb_write(space.0.as_ptr(), hva.0, bytes.as_ptr(), bytes.len()) })
    }

    /// `casueword` and `casueword32`.
    fn compare_exchange(
        &self,
        space: &Space,
        hva: Hva,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, ResolveError> {
        let mut seen = old & width.mask();
        // SAFETY: the kernel checks the address; the result is ours.
        accessed(unsafe {
            glue::wb_exchange(
                space.0.as_ptr(),
                hva.0,
                width.bytes(),
                &raw mut seen,
                new & width.mask(),
            )
        })?;
        Ok(seen)
    }

    /// An eventfd cannot be rung by the kernel before 15.1.
    const HAS_BELLS: bool = false;

    type Bell = NoBell;

    fn bell(&self, _descriptor: i32) -> Result<NoBell, BellError> {
        Err(BellError::NotABell)
    }
}

/// What C returns for an access to user memory.
fn accessed(worked: bool) -> Result<(), ResolveError> {
    worked.then_some(()).ok_or(ResolveError::Fault)
}
