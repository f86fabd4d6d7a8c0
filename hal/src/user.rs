//! User memory: what the VM's owner has at an address, as a page frame and as
//! bytes. And its descriptors, as far as they are bells.
use crate::addr::{Hva, Level, Pfn};
use crate::bell::{Bell, BellError};

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
    /// Whether it is a device's memory, or other memory that the owner reaches
    /// past the caches: then the guest does too.
    pub uncached: bool,
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

/// How many bytes a compare-exchange covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
    /// Eight bytes.
    Qword,
}

impl Width {
    /// All of them, smallest first.
    pub const ALL: [Width; 4] = [Width::Byte, Width::Word, Width::Dword, Width::Qword];

    /// The width of that many bytes, if there is one.
    pub const fn new(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Width::Byte),
            2 => Some(Width::Word),
            4 => Some(Width::Dword),
            8 => Some(Width::Qword),
            _ => None,
        }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
            Width::Qword => 8,
        }
    }

    /// The bits of a value that are in these bytes.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// User memory.
///
/// # Bytes
///
/// [`read`](User::read), [`write`](User::write) and
/// [`compare_exchange`](User::compare_exchange) act as if the owner had done it
/// in user space: with its rights, breaking copy-on-write, bringing pages in.
/// Others, vCPUs above all, use the same bytes at the same time. A read or
/// write of 1, 2, 4 or 8 bytes at a multiple of its size is one access, of
/// which nobody sees half; for larger ones the order of the bytes is not said.
///
/// The calling thread runs in the owner's address space: a vCPU's thread does,
/// and a thread of the kernel's that wants to enters it first (Linux:
/// `kthread_use_mm`; FreeBSD: only threads of the owner call).
///
/// They may sleep, with interrupts on, no lock of ours held but those that may
/// be held while sleeping, and no read section but a sleepable one. Any
/// address and any length are allowed, mapped, wrapping or a kernel's; what is
/// not the owner's gives [`ResolveError::Fault`]. After an error any part of
/// the bytes may have been read or written.
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

    /// As [`resolve`](User::resolve), for a page that is there already, and
    /// without a reference: whoever asks installs it only if no change was
    /// announced since before the question. If the answer says writable, the
    /// host counts the page as dirty. Does not sleep; interrupts may be off.
    /// `None` when it takes `resolve`: always on hosts without notifications.
    ///
    /// Linux: a walk of the host's page table, as `get_user_pages_fast_only`
    /// does it.
    fn resolve_now(&self, _space: &Self::Space, _hva: Hva, _write: bool) -> Option<HostPage> {
        None
    }

    /// As [`read`](User::read), of little-endian words of 64 bits that are
    /// there already, each in one page; at a multiple of eight each is one
    /// access. Says whether all were there, as many as both lists have. Does
    /// not sleep; interrupts may be off. False when it takes `read`: always on
    /// hosts that cannot.
    ///
    /// Linux: `unsafe_get_user` with page faults disabled. FreeBSD: `fueword64`
    /// with page faults disabled.
    fn read_now(&self, _space: &Self::Space, _places: &[Hva], _words: &mut [u64]) -> bool {
        false
    }

    /// Gives back one reference that [`resolve`](User::resolve) took to the
    /// page `pfn`. `dirty`: the guest may have written to it. Any context with
    /// interrupts on; does not sleep.
    ///
    /// Linux: `set_page_dirty_lock` is not needed under a notifier, so
    /// `SetPageDirty`, `put_page`. FreeBSD: `vm_page_dirty`,
    /// `vm_page_unhold_pages`.
    fn release(&self, pfn: Pfn, dirty: bool);

    /// Copies the bytes from `hva` on into `buf`.
    ///
    /// Linux: `copy_from_user`, or `get_user` for the sizes that are one
    /// access. FreeBSD: `copyin`, and `fueword`, `fueword32`, `fuword16`,
    /// `fubyte`.
    ///
    /// # Errors
    ///
    /// As [`ResolveError`] says; `buf` may have changed.
    fn read(&self, space: &Self::Space, hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError>;

    /// Copies `bytes` to `hva` on.
    ///
    /// Linux: `copy_to_user`, or `put_user` for the sizes that are one access.
    /// FreeBSD: `copyout`, and `suword`, `suword32`, `suword16`, `subyte`.
    ///
    /// # Errors
    ///
    /// As [`ResolveError`] says; some of the bytes may have been written.
    fn write(&self, space: &Self::Space, hva: Hva, bytes: &[u8]) -> Result<(), ResolveError>;

    /// Replaces the little-endian value at `hva` by `new` if it is `old`, as
    /// one atomic access with full ordering, and returns what was there: the
    /// exchange happened exactly when that is `old`. `hva` is a multiple of the
    /// width; bits of `old` and `new` beyond it are ignored, and those of the
    /// result are 0. It does not fail for no reason.
    ///
    /// Linux: `unsafe_try_cmpxchg_user` between `user_access_begin` and
    /// `user_access_end`; it brings the page in by itself.
    /// FreeBSD: `casueword` and `casueword32`, again when they fail for no
    /// reason; smaller widths by those, on the word around.
    ///
    /// # Errors
    ///
    /// As [`ResolveError`] says, also when the owner may not write and the
    /// value is not `old`; nothing was written.
    fn compare_exchange(
        &self,
        space: &Self::Space,
        hva: Hva,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, ResolveError>;

    /// Whether the host has bells.
    const HAS_BELLS: bool;

    /// What can be rung. [`NoBell`](crate::NoBell) where there is nothing.
    type Bell: Bell;

    /// The bell behind a descriptor of the calling process, with a reference. May sleep.
    ///
    /// Linux: `eventfd_ctx_fdget`. FreeBSD, after 15.0: `eventfd_get`.
    ///
    /// # Errors
    ///
    /// As [`BellError`] says.
    fn bell(&self, descriptor: i32) -> Result<Self::Bell, BellError>;
}
