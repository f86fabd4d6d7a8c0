//! Where a vCPU is, and the race between entering the guest and kicking.
//!
//! A sender must never believe that a vCPU will see its request before the
//! guest runs when in truth the vCPU has looked already. Both sides write
//! first and look second, with a full barrier in between (KR-1):
//!
//! ```text
//!  vCPU                                 sender
//!  ----                                 ------
//!  interrupts off                       set the request          (R)
//!  mode := InGuest              (M)     full barrier             (S)
//!  full barrier                 (V)     read the mode
//!  read the requests                      InGuest: interrupt the CPU
//!    pending: mode := Outside, go back    else: nothing to do
//!    none: enter the guest
//! ```
//!
//! One of the barriers comes first. If it is (S), the vCPU reads its requests
//! after (V), so it sees (R) and does not enter. If it is (V), the sender
//! reads the mode after (S), so it sees (M) and interrupts; the interrupt
//! finds the vCPU in the guest, or waits while interrupts are off and ends the
//! guest's run as it begins.
//!
//! A walk of page tables without a lock is the same race with other words: the
//! vCPU says `ReadingPageTables`, puts the barrier, and walks; the sender
//! unlinks a table, puts the barrier, and reads the mode. Either the walk does
//! not meet the table, or a sender with `WAIT` sees the walker and waits for
//! it (KR-4).
//!
//! The CPU to interrupt is read after the mode, once (KR-3): see
//! [`Vcpu::cpu_to_interrupt`](super::Vcpu).
use waterbear_hal::sync::atomic::{AtomicU8, Ordering, fence};
use waterbear_hal::sync::twin::{Part, removed};

/// Where a vCPU is.
///
/// ```text
///             begin                        kick
///   Outside ---------> InGuest ------------------> ExitingGuest
///   Outside <--------- InGuest, ExitingGuest, ReadingPageTables   (end)
///   Outside ---------> ReadingPageTables   (begin)
/// ```
///
/// Senders make one transition only, `InGuest` to `ExitingGuest`; the others
/// are made by the vCPU's own thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// In the kernel or in user space. It looks at its requests before it
    /// enters the guest.
    Outside,
    /// In the guest, or about to enter it with interrupts off.
    InGuest,
    /// As `InGuest`, and somebody sends it an interrupt.
    ExitingGuest,
    /// Walking page tables without a lock, with interrupts off.
    ReadingPageTables,
}

/// A vCPU's mode, as others see it.
pub(super) struct ModeCell {
    mode: AtomicU8,
}

impl ModeCell {
    pub(super) fn new() -> Self {
        Self {
            mode: AtomicU8::new(Mode::Outside as u8),
        }
    }

    pub(super) fn get(&self) -> Mode {
        Self::decode(self.mode.load(Ordering::Relaxed))
    }

    fn decode(mode: u8) -> Mode {
        const IN_GUEST: u8 = Mode::InGuest as u8;
        const EXITING_GUEST: u8 = Mode::ExitingGuest as u8;
        const READING_PAGE_TABLES: u8 = Mode::ReadingPageTables as u8;
        match mode {
            IN_GUEST => Mode::InGuest,
            EXITING_GUEST => Mode::ExitingGuest,
            READING_PAGE_TABLES => Mode::ReadingPageTables,
            _ => Mode::Outside,
        }
    }

    /// Announces `mode` and puts the vCPU's barrier, (V) above. Interrupts are
    /// off. The mode goes back to `Outside` when the result is dropped.
    pub(super) fn begin(&self, mode: Mode) -> Announced<'_> {
        // Release: a sender that sees this mode sees the CPU that was stored
        // before. Pairs with the load in `must_interrupt`.
        self.mode.store(mode as u8, Ordering::Release);
        if !removed(Part::EntryBarrier) {
            // (V). Pairs with `sender_barrier`.
            fence(Ordering::SeqCst);
        }
        Announced { cell: self }
    }

    /// Whether a sender must interrupt the vCPU's CPU. The sender has put
    /// [`sender_barrier`] after what it wants seen.
    ///
    /// Without `wait`, only the first sender that meets the vCPU in the guest
    /// gets "yes": its interrupt serves the others as well (KR-2). With
    /// `wait`, a sender needs an interrupt of its own to wait for, unless the
    /// vCPU is outside (KR-4).
    pub(super) fn must_interrupt(&self, wait: bool) -> bool {
        // Acquire: pairs with `begin`, for the CPU that is read next, and with
        // `Announced::drop`, so that whoever finds the vCPU outside sees all
        // it did inside.
        let mut seen = Self::decode(self.mode.load(Ordering::Acquire));
        if seen == Mode::InGuest {
            // Acquire on both outcomes, as above.
            seen = Self::decode(
                match self.mode.compare_exchange(
                    Mode::InGuest as u8,
                    Mode::ExitingGuest as u8,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(was) | Err(was) => was,
                },
            );
        }
        match seen {
            Mode::Outside => false,
            Mode::InGuest => true,
            Mode::ExitingGuest => wait,
            Mode::ReadingPageTables => wait && !removed(Part::WaitForReaders),
        }
    }
}

/// A mode other than `Outside`, until it is dropped.
pub(super) struct Announced<'a> {
    cell: &'a ModeCell,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let outside = Mode::Outside as u8;
        if cfg!(loom) {
            // A sender's compare-exchange has its place in the order of changes
            // directly after what it read, so before this store. The model
            // checker knows that of two read-modify-writes only.
            self.cell.mode.swap(outside, Ordering::Release);
        } else {
            // Release: pairs with the load in `must_interrupt`.
            self.cell.mode.store(outside, Ordering::Release);
        }
    }
}

/// The sender's barrier, (S) above: between what it wants vCPUs to see and the
/// modes that it reads. One serves for any number of vCPUs.
pub(super) fn sender_barrier() {
    if !removed(Part::KickBarrier) {
        // (S). Pairs with `ModeCell::begin`.
        fence(Ordering::SeqCst);
    }
}
