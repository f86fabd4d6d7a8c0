//! The one place that decides between the CPU's atomics and the model
//! checker's.
//!
//! Everything in the core that is shared between threads uses these names, so
//! the code that the model checker explores is the code that ships.

/// Atomic types and fences.
#[cfg(not(loom))]
pub use core::sync::atomic;
#[cfg(loom)]
#[path = "sync_loom.rs"]
pub mod atomic;

/// Says that this thread spins: a pause for the CPU, a reschedule for the
/// model checker.
#[inline]
pub fn spin_hint() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Barriers and checks that a model's failing twin takes out.
///
/// Each model that the checker passes has a twin that runs the same code with
/// one of these removed, and must fail: it proves that the model would see the
/// bug. Outside the model checker nothing can be removed and the question
/// compiles to nothing.
pub mod twin {
    /// What can be removed.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[non_exhaustive]
    pub enum Part {
        /// The vCPU's barrier between its mode and its requests.
        EntryBarrier,
        /// The sender's barrier between the request and the mode it reads.
        KickBarrier,
        /// Waiting for a vCPU that reads page tables with the guest mode
        /// `ReadingPageTables`.
        WaitForReaders,
        /// Taking `slots_arch_lock` around "read the set, prepare, publish".
        SlotsArchLock,
        /// Waiting for readers after a slot was marked invalid.
        SlotsSynchronize,
        /// Keeping the publishing of a slot set out of unmap notifications.
        PublishGate,
        /// Waking whoever waits to publish when the last notification ends.
        NotificationWake,
        /// The check of the invalidation sequence under `mmu_lock`.
        InvalidationCheck,
        /// The read barrier between the invalidation sequence and the search
        /// for a page.
        SnapshotBarrier,
        /// The check under `mmu_lock` that the root is not invalid.
        RootCheck,
        /// Compare-exchange when a fault installs an entry where none was.
        InstallCas,
        /// Compare-exchange when a leaf or a link is changed.
        ChangeCas,
        /// Freezing the entries of a table that is removed while faults run.
        FreezeRemoved,
        /// Waiting for an entry that somebody else has frozen, when its table
        /// is removed.
        FrozenWait,
        /// The grace period before a page table is freed.
        TableGracePeriod,
        /// Compare-exchange in the lockless fast path.
        FastPathCas,
        /// Deciding about page tracking again under the lock.
        TrackRecheck,
        /// The TLB flush after write protection, or after a dirty bit was
        /// cleared.
        WriteProtectFlush,
        /// Marking a page dirty only after it has become writable.
        MarkAfterWrite,
        /// The lock around a vendor's registration.
        VendorLock,
        /// Taking the usage lock around counting users and switching.
        UsageLock,
        /// Keeping CPUs from coming and going while hardware virtualisation is
        /// switched.
        HotplugHold,
        /// Reading the CPU of a vCPU only once.
        CpuReadOnce,
        /// Waking a sleeping vCPU.
        WakeSleeper,
    }

    #[cfg(loom)]
    std::thread_local! {
        static REMOVED: core::cell::Cell<Option<Part>> = const { core::cell::Cell::new(None) };
    }

    /// Whether `part` is taken out of the code that runs now.
    #[inline(always)]
    pub fn removed(part: Part) -> bool {
        #[cfg(loom)]
        return REMOVED.with(|r| r.get() == Some(part));
        #[cfg(not(loom))]
        {
            let _ = part;
            false
        }
    }

    /// Takes `part` out for the rest of this test. The model checker runs all
    /// threads of a model on one thread of the host, so this reaches them all.
    #[cfg(loom)]
    pub fn remove(part: Part) {
        REMOVED.with(|r| r.set(Some(part)));
    }
}
