//! Nobody sleeps through a wake-up.
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::WaitQueue;

use super::{Verdict, must, needs_two_cpus};
use crate::host::wait::Queue;
use crate::host::{self, timer};

pub fn a_sleeper_is_woken_from_another_cpu() -> Verdict {
    const ROUNDS: u32 = 300;
    needs_two_cpus()?;
    // Two CPUs hand a number to and fro; a wake-up that is missed ends the
    // run, because nothing else interrupts them.
    let number = AtomicU32::new(0);
    let queues = [Queue::new(), Queue::new()];
    host::run_on_all(|cpu| {
        let Some(queue) = queues.get(cpu as usize) else {
            return;
        };
        let other = &queues[1 - cpu as usize];
        for round in 0..ROUNDS {
            let mine = round * 2 + cpu;
            queue.wait(false, || number.load(Ordering::Relaxed) == mine);
            number.store(mine + 1, Ordering::Relaxed);
            other.wake();
        }
    });
    must(number.into_inner() == 2 * ROUNDS, "the sleepers lost count")?;
    must(!queues[0].wake(), "somebody still sleeps")
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
