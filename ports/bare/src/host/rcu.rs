//! Read sections.
//!
//! Each CPU counts the outermost sections that it opens and closes, so that an
//! odd count means "inside". What is deferred is freed in batches. As a batch
//! begins, the counts of all CPUs are noted; it may be freed when no CPU is
//! still in the section that it was in then. The lists of deferred tables run
//! through an array with one word per frame, because the tables themselves
//! stay as they are until they are freed.
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{AllocError, Memory, Pfn, Rcu};

use super::irq_lock::IrqLock;
use super::memory::FRAMES;
use super::srcu::Sections;
use super::{Bare, percpu};

const END: u32 = 0;
/// Freed without a pause, with interrupts off.
const AT_ONCE: usize = 64;
/// What a freed table is filled with: an entry that no walk accepts, so that a
/// CPU that still walks it is found out.
const POISON: u8 = 0xff;

/// Per frame, the next one of its list.
static NEXT: [AtomicU32; FRAMES] = [const { AtomicU32::new(END) }; FRAMES];
static DEFERRED: IrqLock<Deferred> = IrqLock::new(Deferred {
    young: END,
    batch: END,
    noted: [0; percpu::MOST],
    over: true,
});
/// How many frees were asked for, and how many are done, in the same order.
static ASKED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

struct Deferred {
    /// Deferred since the batch began.
    young: u32,
    batch: u32,
    /// Each CPU's count as the batch began.
    noted: [u64; percpu::MOST],
    /// Every CPU has left the section that it was in as the batch began.
    over: bool,
}

fn next(frame: u32) -> &'static AtomicU32 {
    match NEXT.get(frame as usize) {
        Some(next) => next,
        None => panic!("frame {frame} is no table"),
    }
}

impl Deferred {
    /// Frees what may be freed, but not much at once. Says whether there may
    /// be more.
    fn advance(&mut self) -> bool {
        if self.batch == END {
            if self.young == END {
                return false;
            }
            self.batch = core::mem::replace(&mut self.young, END);
            self.over = false;
            // Pairs with the fence in `rcu_lock`: a section whose begin is not
            // seen here sees that the batch's tables are unlinked, which came
            // before they were deferred under this lock.
            fence(Ordering::SeqCst);
            for (noted, cpu) in self.noted.iter_mut().zip(percpu::all()) {
                *noted = cpu.sections.load(Ordering::Relaxed);
            }
        }
        if !self.over {
            // Pairs with the release in `rcu_unlock`: what a section read, it
            // read before the free.
            self.over = self.noted.iter().zip(percpu::all()).all(|(&noted, cpu)| {
                noted % 2 == 0 || cpu.sections.load(Ordering::Acquire) != noted
            });
        }
        if !self.over {
            return false;
        }
        for _ in 0..AT_ONCE {
            if self.batch == END {
                break;
            }
            let frame = Pfn(self.batch.into());
            self.batch = next(self.batch).load(Ordering::Relaxed);
            // SAFETY: deferred by its owner, and no section sees it.
            let table = unsafe { Bare.table(frame) }.cast::<u8>();
            // SAFETY: as above.
            unsafe { table.write_bytes(POISON, PAGE_SIZE as usize) }
            // SAFETY: deferred once by its owner, and no section sees it.
            unsafe { Bare.free_table(frame) }
            // Pairs with `rcu_barrier`.
            DONE.fetch_add(1, Ordering::Release);
        }
        true
    }
}

/// Frees a table when every section that is open now has been closed.
pub fn defer(pfn: Pfn) {
    let frame = pfn.0 as u32;
    DEFERRED.with(|deferred| {
        next(frame).store(deferred.young, Ordering::Relaxed);
        deferred.young = frame;
        ASKED.fetch_add(1, Ordering::Relaxed);
    });
    reclaim();
}

fn reclaim() {
    while DEFERRED.with(Deferred::advance) {}
}

/// How many tables wait to be freed.
pub fn waiting() -> u64 {
    ASKED.load(Ordering::Relaxed) - DONE.load(Ordering::Relaxed)
}

// SAFETY: threads stay on their CPUs, so an open section is visible in its
// CPU's count; nothing is freed before the count has changed.
unsafe impl Rcu for Bare {
    type Srcu = Sections;

    fn rcu_lock(&self) {
        let me = percpu::this();
        // Only this CPU changes it, and a handler in between leaves it as it
        // was.
        let nesting = me.nesting.load(Ordering::Relaxed);
        me.nesting.store(nesting + 1, Ordering::Relaxed);
        if nesting == 0 {
            me.sections.fetch_add(1, Ordering::Relaxed);
            // Pairs with the fence in `Deferred::advance`.
            fence(Ordering::SeqCst);
        }
    }

    unsafe fn rcu_unlock(&self) {
        let me = percpu::this();
        let nesting = me.nesting.load(Ordering::Relaxed);
        if nesting == 1 {
            // Pairs with the acquire in `Deferred::advance`.
            me.sections.fetch_add(1, Ordering::Release);
        }
        me.nesting.store(nesting - 1, Ordering::Relaxed);
        // A free that this misses waits for the next section or barrier.
        if nesting == 1 && ASKED.load(Ordering::Relaxed) != DONE.load(Ordering::Relaxed) {
            reclaim();
        }
    }

    fn rcu_barrier(&self) {
        let asked = ASKED.load(Ordering::Relaxed);
        // Pairs with the release in `Deferred::advance`.
        while DONE.load(Ordering::Acquire) < asked {
            reclaim();
            core::hint::spin_loop();
        }
    }

    fn new_srcu(&self) -> Result<Sections, AllocError> {
        Ok(Sections::new())
    }
}
