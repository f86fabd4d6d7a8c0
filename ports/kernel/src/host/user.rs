//! Memory of the process that owns a VM, and news of its changes.
use core::ffi::{c_int, c_void};

use waterbear_hal::{AllocError, BellError, HostPage, Hva, Level, Pfn, ResolveError, User, Width};

use super::{Kernel, allocated, object};
use crate::errno::{EHWPOISON, EINTR, ENOMEM, ERESTARTSYS};
use crate::glue::{self, FoundPage, SpaceStruct};

object! {
    /// The memory of a process, as one VM holds it.
    Space, SpaceStruct, wb_space_drop
}

impl Space {
    /// That of the calling process.
    pub(crate) fn of_caller() -> Result<Self, AllocError> {
        Ok(Self(allocated(glue::wb_space_hold())?))
    }

    /// Whether it is that of the calling process.
    pub(crate) fn is_callers(&self) -> bool {
        // SAFETY: held, and this value's.
        unsafe { glue::wb_space_is_current(self.0.as_ptr()) }
    }

    /// From now on `vm` hears of changes of this memory, which is the calling process's; or it
    /// never does, on kernels that do not tell.
    ///
    /// # Errors
    ///
    /// The kernel's number, negated.
    ///
    /// # Safety
    ///
    /// `vm` is what the port's C files want, and there until `unwatch` is over. Once.
    pub(crate) unsafe fn watch(&self, vm: *const c_void) -> Result<(), c_int> {
        // SAFETY: held; the rest is the caller's promise.
        match unsafe { glue::wb_space_watch(self.0.as_ptr(), vm) } {
            0 => Ok(()),
            error => Err(error),
        }
    }

    /// Ends that, and waits for news that are on their way.
    pub(crate) fn unwatch(&self) {
        // SAFETY: held.
        unsafe { glue::wb_space_unwatch(self.0.as_ptr()) }
    }

    /// The structure, for what only one port does with it. It is there as long as this value.
    pub fn as_ptr(&self) -> *mut SpaceStruct {
        self.0.as_ptr()
    }
}

impl User for Kernel {
    /// The mmu notifiers; none.
    const HAS_NOTIFIER: bool = cfg!(feature = "notifications");

    type Space = Space;

    /// `get_user_pages_fast_only`, `get_user_pages_unlocked`, and the page table where the kernel
    /// has no pages; `vm_fault_quick_hold_pages`.
    fn resolve(&self, space: &Space, hva: Hva, write: bool) -> Result<HostPage, ResolveError> {
        let mut found = FoundPage::default();
        // SAFETY: the structure is held.
        let error = unsafe { glue::wb_resolve(space.0.as_ptr(), hva.0, write, &mut found) };
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
    #[cfg(feature = "notifications")]
    fn resolve_now(&self, space: &Space, hva: Hva, _write: bool) -> Option<HostPage> {
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
    #[cfg(feature = "notifications")]
    #[inline]
    fn read_now(&self, space: &Space, places: &[Hva], words: &mut [u64]) -> bool {
        let count = places.len().min(words.len());
        let (from, to) = (places.as_ptr().cast(), words.as_mut_ptr());
        // SAFETY: there are so many of both, and an `Hva` is its number; the
        // kernel checks the addresses.
        unsafe { glue::wb_read_now(space.0.as_ptr(), from, to, count) }
    }

    /// `SetPageDirty`, `put_page`; `vm_page_dirty`, `vm_page_unwire`.
    fn release(&self, pfn: Pfn, dirty: bool) {
        // SAFETY: the caller gives back a reference that `resolve` took.
        unsafe { glue::wb_release_page(pfn.0, dirty) }
    }

    /// `get_user`, `fueword64` and its like for what is one access; else `copy_from_user`,
    /// `copyin`.
    fn read(&self, space: &Space, hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError> {
        // SAFETY: the buffer has that many bytes; the kernel checks the rest.
        accessed(unsafe { glue::wb_read(space.0.as_ptr(), buf.as_mut_ptr(), hva.0, buf.len()) })
    }

    /// `put_user`, `suword64` and its like for what is one access; else `copy_to_user`, `copyout`.
    fn write(&self, space: &Space, hva: Hva, bytes: &[u8]) -> Result<(), ResolveError> {
        // SAFETY: as above.
        accessed(unsafe { glue::wb_write(space.0.as_ptr(), hva.0, bytes.as_ptr(), bytes.len()) })
    }

    /// `unsafe_try_cmpxchg_user`; `casueword` and `casueword32`.
    fn compare_exchange(
        &self,
        space: &Space,
        hva: Hva,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, ResolveError> {
        let (mut seen, new) = (old & width.mask(), new & width.mask());
        let (space, size) = (space.0.as_ptr(), width.bytes());
        // SAFETY: the kernel checks the address.
        accessed(unsafe { glue::wb_exchange(space, hva.0, size, &mut seen, new) })?;
        Ok(seen)
    }

    /// Eventfds; FreeBSD's cannot be rung by the kernel before 15.1.
    const HAS_BELLS: bool = cfg!(feature = "bells");

    #[cfg(feature = "bells")]
    type Bell = super::bell::Eventfd;

    #[cfg(not(feature = "bells"))]
    type Bell = waterbear_hal::NoBell;

    /// `eventfd_ctx_fdget`.
    #[cfg(feature = "bells")]
    fn bell(&self, descriptor: i32) -> Result<Self::Bell, BellError> {
        super::bell::Eventfd::of(descriptor)
    }

    #[cfg(not(feature = "bells"))]
    fn bell(&self, _descriptor: i32) -> Result<Self::Bell, BellError> {
        Err(BellError::NotABell)
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
