//! Nobody sleeps through a wake-up.
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::WaitQueue;

use super::{Verdict, must, needs_two_cpus, soon};
use crate::host::wait::Queue;
use crate::host::{self, timer};

fn dawdle(steps: u32) {
    for step in 0..steps {
        core::hint::black_box(step);
    }
}

pub fn a_sleeper_is_woken_from_another_cpu() -> Verdict {
    const ROUNDS: u32 = 1000;
    /// The waker comes a little later each round, and so at every point of the
    /// sleeper's way into its sleep.
    const LATEST: u32 = 2003;
    const SLOW: u32 = 2000;
    const EAGER: u32 = 20_000;
    needs_two_cpus()?;
    let (asked, answered) = (AtomicU32::new(0), AtomicU32::new(0));
    let missed = AtomicU32::new(0);
    let queue = Queue::new();
    host::run_on_all(|cpu| match cpu {
        0 => {
            for round in 1..=ROUNDS {
                dawdle(7 * round % LATEST);
                asked.store(round, Ordering::Relaxed);
                queue.wake();
                let answer = || answered.load(Ordering::Relaxed) == round;
                // First without a pause, which would make this CPU late.
                if !(0..EAGER).any(|_| answer()) && !soon(answer) {
                    missed.fetch_add(1, Ordering::Relaxed);
                    // Once more, so that the test comes to an end.
                    queue.wake();
                    soon(answer);
                    break;
                }
            }
            asked.store(u32::MAX, Ordering::Relaxed);
            queue.wake();
        }
        1 => {
            let mut next = 1;
            loop {
                queue.wait(false, || {
                    let ready = asked.load(Ordering::Relaxed) >= next;
                    // What is known now is old when it is acted upon.
                    dawdle(SLOW);
                    ready
                });
                if asked.load(Ordering::Relaxed) == u32::MAX {
                    break;
                }
                answered.store(next, Ordering::Relaxed);
                next += 1;
            }
        }
        _ => (),
    });
    must(missed.into_inner() == 0, "a sleeper missed a wake-up")?;
    must(!queue.wake(), "somebody still sleeps")
}

pub fn a_signal_ends_an_interruptible_sleep() -> Verdict {
    let queue = Queue::new();
    host::signal(0);
    must(
        queue.wait(true, || true),
        "a condition that holds counts for less than a signal",
    )?;
    must(!queue.wait(true, || false), "a sleep ignored a signal")?;
    must(host::take_signal(), "the signal was taken by the sleep")?;
    must(!host::take_signal(), "the signal came twice")?;
    // From a handler, while this CPU sleeps.
    let begin = timer::ticks(0);
    timer::after(100_000);
    must(
        queue.wait(false, || timer::ticks(0) != begin),
        "a sleep ended too early",
    )?;
    if host::count() > 1 {
        host::run_on_all(|cpu| match cpu {
            0 => {
                queue.wait(true, || false);
            }
            1 => host::signal(0),
            _ => (),
        });
        must(host::take_signal(), "no signal came")?;
    }
    Ok(())
}
