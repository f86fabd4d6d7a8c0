//! Read sections: ones that never sleep, and ones that may.
use core::marker::PhantomData;

use crate::memory::AllocError;

/// Read sections that never sleep, for walks of page tables.
///
/// # Safety
///
/// The implementor promises the grace period that
/// [`Memory::free_table_deferred`](crate::Memory::free_table_deferred) names,
/// for sections opened with [`rcu_lock`](Rcu::rcu_lock), and that
/// [`Srcu::synchronize`] waits as it says.
pub unsafe trait Rcu: Sized {
    /// The host's sleepable read-copy-update domain.
    type Srcu: Srcu;

    /// Opens a read section. Sections nest. Any context with interrupts on or
    /// off. Use [`RcuGuard::new`].
    ///
    /// Linux: `rcu_read_lock`. FreeBSD: `epoch_enter_preempt`.
    fn rcu_lock(&self);

    /// Closes the innermost read section.
    ///
    /// Linux: `rcu_read_unlock`. FreeBSD: `epoch_exit_preempt`.
    ///
    /// # Safety
    ///
    /// Pairs with one [`rcu_lock`](Rcu::rcu_lock) of this thread.
    unsafe fn rcu_unlock(&self);

    /// Waits until every deferred free that has been asked for is done. May
    /// sleep, long; no lock of ours and no read section held. VM teardown and
    /// module unload call it.
    ///
    /// Linux: `rcu_barrier`. FreeBSD: `epoch_drain_callbacks`.
    fn rcu_barrier(&self);

    /// Makes a domain of sleepable read sections. May sleep.
    ///
    /// Linux: `init_srcu_struct`. FreeBSD: `rm_init_flags(RM_SLEEPABLE)`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn new_srcu(&self) -> Result<Self::Srcu, AllocError>;
}

/// A domain of read sections that may sleep. One per VM; it protects the
/// memory slots.
///
/// A fault looks a slot up, sleeps while the host brings the page in, and goes
/// on with the slot, all in one section. Sections do not nest.
///
/// On hosts without SRCU a reader-writer lock serves whose readers may sleep:
/// then [`synchronize`](Srcu::synchronize) is "lock for writing, unlock", and
/// new readers wait while a writer waits. So a reader must never wait for
/// something that a caller of `synchronize` holds; in particular
/// `synchronize` is called without `slots_arch_lock`, which readers may take.
pub trait Srcu: Send + Sync + Sized {
    /// Opens a read section; the value goes back to [`unlock`](Srcu::unlock).
    /// May wait for a short time on hosts without SRCU. Process context.
    ///
    /// Linux: `srcu_read_lock`. FreeBSD: `rm_rlock`.
    fn lock(&self) -> usize;

    /// As [`lock`](Srcu::lock), without waiting. Interrupts may be off, and
    /// then they stay off until the section is closed, which wakes nobody who
    /// needs them on. `None` where it would have to wait, and on hosts that
    /// cannot.
    ///
    /// Linux: `srcu_read_lock`. FreeBSD: `rm_try_rlock`.
    fn try_lock(&self) -> Option<usize> {
        None
    }

    /// Closes the read section.
    ///
    /// Linux: `srcu_read_unlock`. FreeBSD: `rm_runlock`.
    ///
    /// # Safety
    ///
    /// `token` came from [`lock`](Srcu::lock) or [`try_lock`](Srcu::try_lock) of this domain on this thread,
    /// and goes back once.
    unsafe fn unlock(&self, token: usize);

    /// Waits until every section that is open now has been closed. Everything
    /// the caller wrote before is seen by sections opened afterwards, and
    /// everything the waited-for sections did is seen by the caller. May
    /// sleep; not from within a section of this domain.
    ///
    /// Linux: `synchronize_srcu_expedited`. FreeBSD: `rm_wlock`, `rm_wunlock`.
    fn synchronize(&self);
}

/// Evidence that the current thread is inside an RCU read section.
///
/// Not `Send`: a section belongs to the thread that opened it.
pub struct RcuGuard<'a, R: Rcu> {
    rcu: &'a R,
    not_send: PhantomData<*mut ()>,
}

impl<'a, R: Rcu> RcuGuard<'a, R> {
    /// Opens a read section that ends when the guard is dropped.
    pub fn new(rcu: &'a R) -> Self {
        rcu.rcu_lock();
        Self {
            rcu,
            not_send: PhantomData,
        }
    }

    /// The host whose section this is.
    pub fn host(&self) -> &'a R {
        self.rcu
    }
}

impl<R: Rcu> Drop for RcuGuard<'_, R> {
    fn drop(&mut self) {
        // SAFETY: `new` opened the section on this thread (the guard is not
        // `Send`) and only this drop closes it.
        unsafe { self.rcu.rcu_unlock() }
    }
}
