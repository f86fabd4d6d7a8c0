//! Memory belongs to one.
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::Memory;

use super::{Together, Verdict, must};
use crate::host::{self, Bare, memory};

pub fn memory_has_one_owner_at_a_time() -> Verdict {
    const ROUNDS: usize = 200;
    let before = memory::used();
    let shared = AtomicU32::new(0);
    let together = Together::new();
    host::run_on_all(|cpu| {
        together.begin();
        for round in 0..ROUNDS {
            let count = 1 + round % 3;
            let Ok(pages) = Bare.alloc_pages(count) else {
                shared.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            // SAFETY: just allocated.
            let word = unsafe { Bare.pages(pages) }.cast::<u32>();
            // SAFETY: inside the page, which is ours.
            let fresh = unsafe { word.read_volatile() } == 0;
            // SAFETY: as above.
            unsafe { word.write_volatile(cpu + 1) }
            core::hint::spin_loop();
            // SAFETY: as above.
            let ours = unsafe { word.read_volatile() } == cpu + 1;
            if !fresh || !ours {
                shared.fetch_add(1, Ordering::Relaxed);
            }
            // SAFETY: allocated above, and not used any more.
            unsafe { Bare.free_pages(pages, count) }
        }
    });
    must(
        shared.into_inner() == 0,
        "a page was not fresh, or two had it",
    )?;
    must(memory::used() == before, "memory leaked")
}
