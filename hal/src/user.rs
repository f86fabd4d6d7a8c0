//! User memory: from an address of the VM's owner to a page frame.
use crate::addr::{Hva, Level, Pfn};

/// A host page that backs guest memory.
///
/// The holder owns one reference to the page and must give it back with
/// [`User::release`].
#[derive(Debug)]
#[must_use = "the page stays referenced until it is released"]
pub struct HostPage {
    /// The frame of the page that was asked for, not of the large page it may
    /// belong to.
    pub pfn: Pfn,
    /// Whether the host lets the owner write to the page now. May be true
    /// although only a read was asked for.
    pub writable: bool,
    /// The largest level at which host memory is contiguous around `pfn` with
    /// the same permissions, aligned alike in virtual and physical space.
    pub level: Level,
}

/// Why an address has no page now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResolveError {
    /// The owner has no memory there, or not with the access asked for.
    Fault,
    /// The memory exists but failed in hardware.
    Poisoned,
    /// A signal waits for the thread; nothing was resolved.
    Interrupted,
    /// No memory, or a limit of the process on pinned memory is reached.
    NoMemory,
}

/// User memory.
pub trait User {
    /// Whether the host tells us when user mappings change.
    ///
    /// With it (Linux: mmu notifiers) the port calls
    /// `Vm::invalidate_begin`/`Vm::invalidate_end` around every change, and a
    /// page is released as soon as its mapping is installed. Without it
    /// (FreeBSD) a page stays referenced as long as the guest can reach it and
    /// is released when its mapping is removed.
    const HAS_NOTIFIER: bool;

    /// The address space of the process that owns a VM. Kept by the VM, so the
    /// port makes it a reference to the kernel's object.
    ///
    /// Linux: a held `mm_struct`. FreeBSD: a held `vmspace`.
    type Space: Send + Sync;

    /// Finds the page behind `hva` and takes a reference to it, bringing it in
    /// if need be. `write`: the guest wants to write, so a copy-on-write page
    /// is broken first. May sleep; interrupts on; no spin lock, no RCU
    /// section.
    ///
    /// Linux: `get_user_pages_fast` and its remote form. FreeBSD:
    /// `vm_fault_quick_hold_pages`.
    ///
    /// # Errors
    ///
    /// As [`ResolveError`] says; no reference is held then.
    fn resolve(&self, space: &Self::Space, hva: Hva, write: bool)
    -> Result<HostPage, ResolveError>;

    /// Gives back one reference that [`resolve`](User::resolve) took to the
    /// page `pfn`. `dirty`: the guest may have written to it. Any context with
    /// interrupts on; does not sleep.
    ///
    /// Linux: `set_page_dirty_lock` is not needed under a notifier, so
    /// `SetPageDirty`, `put_page`. FreeBSD: `vm_page_dirty`,
    /// `vm_page_unhold_pages`.
    fn release(&self, pfn: Pfn, dirty: bool);
}
