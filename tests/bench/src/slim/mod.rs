//! A host that costs what a kernel costs.
//!
//! The mock host checks and records; this one does neither. Each item is about
//! as long as what a kernel runs in its place: finding a table is an addition,
//! locks are a few atomic instructions, an RCU section counts in a variable of
//! the thread. So the instructions that are counted are the core's.
//!
//! A process has one such machine, and its handle has size zero, as in a
//! kernel. Guest memory is an address calculation: it takes no host memory and
//! its look-up costs nothing, so what is counted is the core's part of a fault.
//!
//! Deferred frees wait for [`Rcu::rcu_barrier`], which only the end of a VM
//! calls here: then no other thread is inside a section, because each uses the
//! VM.
//!
//! [`Rcu::rcu_barrier`]: waterbear_hal::Rcu::rcu_barrier
mod cpu;
mod fpu;
mod lock;
mod memory;

use std::sync::atomic::{AtomicBool, Ordering};

use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::{
    BellError, HostPage, Hva, Level, Log, NoBell, Pfn, ResolveError, Time, User, Width, Word, Words,
};

pub use cpu::run_on;

/// The machine of this process.
#[derive(Clone, Copy)]
pub struct SlimHost;

/// Guest memory consists of pages of 2 MiB.
static LARGE_PAGES: AtomicBool = AtomicBool::new(false);

impl SlimHost {
    /// Makes guest memory consist of pages of 2 MiB, or else of 4 KiB.
    pub fn set_large_pages(large: bool) {
        LARGE_PAGES.store(large, Ordering::Relaxed);
    }
}

impl User for SlimHost {
    const HAS_NOTIFIER: bool = true;

    type Space = ();

    #[inline]
    fn resolve(&self, _space: &(), hva: Hva, _write: bool) -> Result<HostPage, ResolveError> {
        Ok(HostPage {
            pfn: Pfn(hva.0 >> PAGE_SHIFT),
            writable: true,
            uncached: false,
            level: if LARGE_PAGES.load(Ordering::Relaxed) {
                Level::L2
            } else {
                Level::L1
            },
        })
    }

    #[inline]
    fn release(&self, _pfn: Pfn, _dirty: bool) {}

    // Guest memory is no memory here: it reads as 0 and forgets.

    fn read(&self, _space: &(), _hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError> {
        buf.fill(0);
        Ok(())
    }

    fn write(&self, _space: &(), _hva: Hva, _bytes: &[u8]) -> Result<(), ResolveError> {
        Ok(())
    }

    fn compare_exchange(
        &self,
        _space: &(),
        _hva: Hva,
        _width: Width,
        _old: u64,
        _new: u64,
    ) -> Result<u64, ResolveError> {
        Ok(0)
    }

    const HAS_BELLS: bool = false;

    type Bell = NoBell;

    fn bell(&self, _descriptor: i32) -> Result<NoBell, BellError> {
        Err(BellError::NoDescriptor)
    }
}

impl Time for SlimHost {
    fn nanoseconds(&self) -> u64 {
        0
    }

    fn wall_nanoseconds(&self) -> u64 {
        0
    }

    fn tsc_is_stable(&self) -> bool {
        false
    }
}

impl Log for SlimHost {
    fn info(&self, message: &[Word]) {
        eprintln!("{}", Words(message));
    }

    fn bug(&self, what: &'static str) {
        panic!("{what}");
    }
}
