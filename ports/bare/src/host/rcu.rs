//! Read sections.
//!
//! On one CPU without preemption a section is over when its code is: what is
//! deferred inside one is freed as the outermost ends. The list of deferred
//! tables runs through an array with one word per frame, because the tables
//! themselves stay as they are until they are freed.
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::{AllocError, Memory, Pfn, Rcu, Srcu};

use super::Bare;

/// Frames that may hold tables.
const FRAMES: usize = 96 << 8;
const END: u32 = 0;

/// Per frame, the next deferred one.
static NEXT: [AtomicU32; FRAMES] = [const { AtomicU32::new(END) }; FRAMES];
static FIRST: AtomicU32 = AtomicU32::new(END);
static NESTING: AtomicU32 = AtomicU32::new(0);

/// Frees a table when no section is open.
pub fn defer(pfn: Pfn) {
    let Some(next) = NEXT.get(pfn.0 as usize) else {
        panic!("{pfn:?} is no table");
    };
    next.store(
        FIRST.swap(pfn.0 as u32, Ordering::Relaxed),
        Ordering::Relaxed,
    );
    reclaim();
}

fn reclaim() {
    if NESTING.load(Ordering::Relaxed) != 0 {
        return;
    }
    let mut at = FIRST.swap(END, Ordering::Relaxed);
    while let Some(next) = NEXT.get(at as usize).filter(|_| at != END) {
        let frame = Pfn(at.into());
        at = next.load(Ordering::Relaxed);
        // SAFETY: deferred once by its owner, and no section is open.
        unsafe { Bare.free_table(frame) }
    }
}

// SAFETY: one CPU, no preemption: a section that is open is counted in
// `NESTING`, and nothing is freed while the count is not zero.
unsafe impl Rcu for Bare {
    type Srcu = Sections;

    fn rcu_lock(&self) {
        NESTING.fetch_add(1, Ordering::Relaxed);
    }

    unsafe fn rcu_unlock(&self) {
        NESTING.fetch_sub(1, Ordering::Relaxed);
        reclaim();
    }

    fn rcu_barrier(&self) {
        reclaim();
    }

    fn new_srcu(&self) -> Result<Sections, AllocError> {
        Ok(Sections(AtomicU32::new(0)))
    }
}

/// Sections that may sleep; here nothing does.
pub struct Sections(AtomicU32);

impl Srcu for Sections {
    fn lock(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) as usize
    }

    unsafe fn unlock(&self, _token: usize) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn synchronize(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            panic!("the only thread waits for itself");
        }
    }
}
