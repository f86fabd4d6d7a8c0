//! Memory of the process that owns a VM, and news of its changes.
use core::ffi::c_void;
use core::ptr::NonNull;

use waterbear_hal::{
    AllocError, Bell, BellError, HostPage, Hva, Level, Pfn, ResolveError, User, Width,
};

use super::{Linux, allocated};
use crate::errno::{EBADF, EHWPOISON, EINTR, ENOMEM, ERESTARTSYS};
use crate::glue::{self, EventfdContext, FoundPage, MmStruct, NotifierStruct};

/// An `mm_struct`, held with `mmgrab`: the structure stays, its memory goes
/// with the process.
pub struct Mm(NonNull<MmStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Mm {}
// SAFETY: as above.
unsafe impl Sync for Mm {}

impl Mm {
    /// That of the calling process.
    pub fn of_caller() -> Result<Self, AllocError> {
        Ok(Self(allocated(glue::wb_mm_hold())?))
    }

    /// Whether it is that of the calling process.
    pub fn is_callers(&self) -> bool {
        glue::wb_mm_is_current(self.0.as_ptr())
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // SAFETY: pairs with the hold in `of_caller`.
        unsafe { glue::wb_mm_drop(self.0.as_ptr()) }
    }
}

impl User for Linux {
    /// The kernel's mmu notifiers.
    const HAS_NOTIFIER: bool = true;

    type Space = Mm;

    /// `get_user_pages_fast_only`, and `get_user_pages_unlocked` where that
    /// does not do; the level is read from the host's page table. Where the
    /// kernel has no pages, as for a device's memory, its page table has them.
    fn resolve(&self, space: &Mm, hva: Hva, write: bool) -> Result<HostPage, ResolveError> {
        let mut found = FoundPage::default();
        // SAFETY: the structure is held; the result is ours.
        let error = unsafe { glue::wb_resolve(space.0.as_ptr(), hva.0, write, &raw mut found) };
        match -error {
            0 => {}
            ENOMEM => return Err(ResolveError::NoMemory),
            EINTR | ERESTARTSYS => return Err(ResolveError::Interrupted),
            EHWPOISON => return Err(ResolveError::Poisoned),
            _ => return Err(ResolveError::Fault),
        }
        Ok(HostPage {
            pfn: Pfn(found.pfn),
            writable: found.writable,
            uncached: found.uncached,
            level: level(found.shift),
        })
    }

    /// A walk of the page table, which takes only what is mapped for writing
    /// and dirty there: so the page is dirty when it is unmapped.
    fn resolve_now(&self, space: &Mm, hva: Hva, _write: bool) -> Option<HostPage> {
        // SAFETY: the structure is held.
        let found = unsafe { glue::wb_resolve_now(space.0.as_ptr(), hva.0) };
        // Frame and size of the mapping, together in a word.
        let (pfn, shift) = (found >> 8, found as u32 & 0xff);
        (found != 0).then(|| HostPage {
            pfn: Pfn(pfn),
            writable: true,
            // Only memory is looked at.
            uncached: false,
            level: level(shift),
        })
    }

    /// `unsafe_get_user` with page faults disabled.
    #[inline]
    fn read_now(&self, space: &Mm, places: &[Hva], words: &mut [u64]) -> bool {
        let count = places.len().min(words.len());
        let (from, to) = (places.as_ptr().cast(), words.as_mut_ptr());
        // SAFETY: there are so many of both, and an `Hva` is its number; the
        // kernel checks the addresses.
        unsafe { glue::wb_read_now(space.0.as_ptr(), from, to, count) }
    }

    /// `SetPageDirty`, `put_page`.
    fn release(&self, pfn: Pfn, dirty: bool) {
        // SAFETY: the caller gives back a reference that `resolve` took.
        unsafe { glue::wb_release_page(pfn.0, dirty) }
    }

    /// `get_user` for what is one access, else `copy_from_user`.
    fn read(&self, space: &Mm, hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError> {
        // SAFETY: the buffer has that many bytes; the kernel checks the rest.
        accessed(unsafe { glue::wb_read(space.0.as_ptr(), buf.as_mut_ptr(), hva.0, buf.len()) })
    }

    /// `put_user` for what is one access, else `copy_to_user`.
    fn write(&self, space: &Mm, hva: Hva, bytes: &[u8]) -> Result<(), ResolveError> {
        // SAFETY: as above.
        accessed(unsafe { glue::wb_write(space.0.as_ptr(), hva.0, bytes.as_ptr(), bytes.len()) })
    }

    /// `unsafe_try_cmpxchg_user`.
    fn compare_exchange(
        &self,
        space: &Mm,
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

    const HAS_BELLS: bool = true;

    type Bell = Eventfd;

    /// `eventfd_ctx_fdget`.
    fn bell(&self, descriptor: i32) -> Result<Eventfd, BellError> {
        let mut error = 0;
        // SAFETY: the result is ours.
        let found = unsafe { glue::wb_bell_get(descriptor, &raw mut error) };
        NonNull::new(found).map(Eventfd).ok_or(match error {
            EBADF => BellError::NoDescriptor,
            _ => BellError::NotABell,
        })
    }
}

/// A `struct eventfd_ctx`, with a reference.
pub struct Eventfd(NonNull<EventfdContext>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Eventfd {}
// SAFETY: as above.
unsafe impl Sync for Eventfd {}

impl Bell for Eventfd {
    /// `eventfd_signal`.
    fn ring(&self) {
        // SAFETY: the reference keeps it.
        unsafe { glue::wb_bell_ring(self.0.as_ptr()) }
    }

    fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Drop for Eventfd {
    /// `eventfd_ctx_put`.
    fn drop(&mut self) {
        // SAFETY: pairs with the reference that `bell` took.
        unsafe { glue::wb_bell_put(self.0.as_ptr()) }
    }
}

/// The level of mappings that are `1 << shift` bytes large.
fn level(shift: u32) -> Level {
    match shift {
        30.. => Level::L3,
        21.. => Level::L2,
        _ => Level::L1,
    }
}

/// What C returns for an access to user memory.
fn accessed(worked: bool) -> Result<(), ResolveError> {
    worked.then_some(()).ok_or(ResolveError::Fault)
}

/// A `struct mmu_notifier`.
pub struct Notifier(NonNull<NotifierStruct>);

// SAFETY: the kernel's structure is made to be shared.
unsafe impl Send for Notifier {}
// SAFETY: as above.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// One that is not registered.
    pub fn new() -> Result<Self, AllocError> {
        Ok(Self(allocated(glue::wb_notifier_new())?))
    }

    /// `mmu_notifier_register`: from now on `vm` hears of changes of the
    /// calling process's memory.
    ///
    /// # Errors
    ///
    /// The kernel's number.
    ///
    /// # Safety
    ///
    /// `vm` is what the functions `waterbear_change_*` want, and outlives this
    /// value. Once.
    pub unsafe fn start(&self, vm: *const c_void) -> Result<(), i32> {
        // SAFETY: ours until dropped; the rest is the caller's promise.
        match unsafe { glue::wb_notifier_start(self.0.as_ptr(), vm) } {
            0 => Ok(()),
            error => Err(error),
        }
    }
}

impl Drop for Notifier {
    /// `mmu_notifier_unregister`, which waits for notifications that run.
    fn drop(&mut self) {
        // SAFETY: nobody has a handle any more.
        unsafe { glue::wb_notifier_free(self.0.as_ptr()) }
    }
}
