//! The timers run.
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Verdict, must, soon};
use crate::host::{self, timer};

const MICROSECOND: u64 = 1000;

pub fn the_timer_interrupts_every_cpu() -> Verdict {
    let (early, late, stopped) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let count = |counter: &AtomicU32| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    host::run_on_all(|cpu| {
        let before = timer::ticks(cpu);
        let begin = timer::now();
        timer::after(200 * MICROSECOND);
        if !soon(|| timer::ticks(cpu) > before) {
            count(&late);
        }
        // The two clocks were compared, but not without error.
        if timer::now().wrapping_sub(begin) < 100 * MICROSECOND {
            count(&early);
        }
        timer::every(50 * MICROSECOND);
        if !soon(|| timer::ticks(cpu) >= before + 6) {
            count(&late);
        }
        timer::stop();
        let after = timer::ticks(cpu);
        timer::delay(200 * MICROSECOND);
        if timer::ticks(cpu) > after + 1 {
            count(&stopped);
        }
    });
    must(late.into_inner() == 0, "a timer interrupt did not come")?;
    must(early.into_inner() == 0, "a timer interrupt came early")?;
    must(stopped.into_inner() == 0, "a stopped timer went on")
}
