//! Tests of the host itself, before any guest runs: a guest's test means
//! nothing on a host that loses wake-ups or mixes up registers.
mod cpus;
pub mod fpu;
mod locks;
mod memory;
mod sections;
mod sleep;
mod timer;

use core::sync::atomic::{AtomicU32, Ordering};

use crate::console::say;
use crate::host;

/// Why a test has not passed.
pub enum Miss {
    Failed(&'static str),
    /// The machine has not what the test needs.
    Skipped(&'static str),
}

type Verdict = Result<(), Miss>;

/// Fails a test unless `fact`.
fn must(fact: bool, else_why: &'static str) -> Verdict {
    if fact {
        Ok(())
    } else {
        Err(Miss::Failed(else_why))
    }
}

/// Skips a test on a machine with one CPU.
fn needs_two_cpus() -> Verdict {
    if host::count() > 1 {
        Ok(())
    } else {
        Err(Miss::Skipped("the machine has one CPU"))
    }
}

macro_rules! tests {
    ($($module:ident::$test:ident,)*) => {
        const TESTS: &[(&str, fn() -> Verdict)] = &[$((stringify!($test), $module::$test),)*];
    };
}

tests! {
    cpus::every_cpu_started_and_answers_a_call,
    cpus::cpus_that_call_each_other_do_not_deadlock,
    cpus::every_cpu_counts_its_nmis,
    timer::the_timer_interrupts_every_cpu,
    sleep::a_sleeper_is_woken_from_another_cpu,
    sleep::a_signal_ends_an_interruptible_sleep,
    locks::locks_exclude,
    locks::a_waiter_makes_a_lock_contended,
    memory::memory_has_one_owner_at_a_time,
    sections::a_frame_is_freed_only_after_every_cpu_left_its_section,
    sections::readers_never_see_a_freed_frame,
    sections::a_synchronizer_waits_for_the_readers_before_it,
    sections::readers_never_see_what_a_synchronizer_took_away,
    fpu::the_fpu_state_of_two_guests_and_the_host_stay_apart,
}

/// Runs every test; says whether none failed.
pub fn run() -> bool {
    say!(
        "NOTE {} of {} CPUs run",
        host::count(),
        crate::smp::listed()
    );
    say!("PLAN {}", TESTS.len());
    let mut sound = true;
    for (name, test) in TESTS {
        match test() {
            Ok(()) => say!("PASS {name}"),
            Err(Miss::Skipped(why)) => say!("SKIP {name}: {why}"),
            Err(Miss::Failed(why)) => {
                say!("FAIL {name}: {why}");
                sound = false;
            }
        }
    }
    sound
}

/// Where CPUs wait for each other, so that none is done before the others
/// begin.
struct Together(AtomicU32);

impl Together {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Returns when every CPU has called this.
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        soon(|| self.0.load(Ordering::Relaxed) >= host::count());
    }
}

/// Waits, not for ever, until `fact`.
fn soon(fact: impl Fn() -> bool) -> bool {
    /// In nanoseconds.
    const PATIENCE: u64 = 5_000_000_000;
    let start = host::timer::now();
    while !fact() {
        if host::timer::now().wrapping_sub(start) > PATIENCE {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
