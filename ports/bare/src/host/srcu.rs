//! Read sections that may sleep: two counts of readers, of which new readers
//! use one and `synchronize` waits for the other.
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use waterbear_hal::Srcu;

/// A domain of sections.
pub struct Sections {
    /// Which count new readers use.
    side: AtomicUsize,
    readers: [AtomicUsize; 2],
    /// Somebody synchronises. Nobody else may switch sides meanwhile.
    switching: AtomicBool,
}

impl Sections {
    pub const fn new() -> Self {
        Self {
            side: AtomicUsize::new(0),
            readers: [AtomicUsize::new(0), AtomicUsize::new(0)],
            switching: AtomicBool::new(false),
        }
    }

    fn count(&self, side: usize) -> &AtomicUsize {
        &self.readers[side & 1]
    }
}

impl Srcu for Sections {
    fn lock(&self) -> usize {
        loop {
            let side = self.side.load(Ordering::Relaxed);
            self.count(side).fetch_add(1, Ordering::Relaxed);
            // Pairs with the fences in `synchronize`: if the side is still the
            // same here, whoever switches it later sees this reader; and a
            // reader that sees the new side sees what was written before the
            // switch.
            fence(Ordering::SeqCst);
            if self.side.load(Ordering::Acquire) == side {
                return side;
            }
            self.count(side).fetch_sub(1, Ordering::Release);
        }
    }

    // It waits for nobody: only a switch of sides makes it try again.
    fn try_lock(&self) -> Option<usize> {
        Some(self.lock())
    }

    unsafe fn unlock(&self, token: usize) {
        // Pairs with the wait in `synchronize`.
        self.count(token).fetch_sub(1, Ordering::Release);
    }

    fn synchronize(&self) {
        // Pairs with the release below.
        while self.switching.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        let old = self.side.load(Ordering::Relaxed);
        self.side.store(old ^ 1, Ordering::Release);
        // Pairs with the fence in `lock`.
        fence(Ordering::SeqCst);
        // Nobody valid joins the old side any more: who counts itself there
        // from now on sees the new side and leaves again. The other side was
        // empty of valid readers before the switch, because the call that
        // switched away from it waited for them.
        while self.count(old).load(Ordering::Acquire) != 0 {
            spin_loop();
        }
        self.switching.store(false, Ordering::Release);
    }
}
