//! More vCPUs than CPUs, on CPUs that come and go, with signals, and with owners that are killed.
use std::thread;
use std::time::Duration;

use super::checked::{Checked, endless_child};
use super::interrupt::{signal, take_signals};
use super::map::{LARGE, Place, done};
use crate::leaks::{Used, nobody_holds_the_module};
use crate::node::same;
use crate::random::Random;
use crate::{Outcome, cpus, sys};

const VCPUS: usize = 5;

/// Many vCPUs check memory while something happens to them.
fn crowded(what: impl FnOnce(&Checked) -> Outcome) -> Outcome {
    let memory = Place::fresh(LARGE)?;
    let checked = Checked::new(VCPUS, &memory)?;
    checked.meanwhile(|| {
        what(&checked)?;
        checked.all_is_seen(&memory)
    })
}

/// Binds a thread to some CPUs, by their bits.
fn bind(thread: i32, cpus: u64) -> Outcome {
    // SAFETY: a mask of that many bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            thread,
            size_of::<u64>(),
            &raw const cpus,
        )
    };
    done("sched_setaffinity", result)
}

pub fn more_vcpus_than_cpus_get_on() -> Outcome {
    crowded(|checked| {
        for _ in 0..5 {
            checked.rounds()?;
        }
        // On one of them.
        for thread in checked.threads() {
            bind(thread, cpus::one()?)?;
        }
        for _ in 0..3 {
            checked.rounds()?;
        }
        Ok(())
    })
}

pub fn vcpus_migrate_between_cpus() -> Outcome {
    let mut random = Random::new("migration");
    let cpus = [cpus::one()?, cpus::other()?];
    crowded(|checked| {
        for turn in 0..1500 {
            let threads = checked.threads();
            bind(threads[random.below(threads.len())], cpus[turn % 2])?;
            if turn % 4 == 0 {
                thread::sleep(Duration::from_micros(random.below(500) as u64));
            }
        }
        Ok(())
    })
}

pub fn cpus_come_and_go_under_a_crowd() -> Outcome {
    let mut random = Random::new("CPUs");
    crowded(|checked| {
        for _ in 0..12 {
            thread::sleep(Duration::from_millis(random.below(20) as u64));
            cpus::switch_last(false)?;
            if random.below(2) == 0 {
                checked.rounds()?;
            }
            cpus::switch_last(true)?;
        }
        Ok(())
    })
}

pub fn signals_come_all_the_time() -> Outcome {
    take_signals();
    let mut random = Random::new("signals");
    crowded(|checked| {
        for _ in 0..4000 {
            let threads = checked.threads();
            signal(threads[random.below(threads.len())]);
            if random.below(8) == 0 {
                thread::sleep(Duration::from_micros(random.below(200) as u64));
            }
        }
        Ok(())
    })
}

pub fn an_owner_killed_at_any_moment_leaves_nothing() -> Outcome {
    const KILLS: usize = 200;
    let mut random = Random::new("kills");
    let mut before = None;
    for kill in 0..KILLS {
        let child = endless_child(1 + random.below(3), LARGE)?;
        // Most of the ways to a running guest are short.
        let most = random.one(&[2_000, 10_000, 40_000]);
        thread::sleep(Duration::from_micros(random.below(most) as u64));
        sys::kill(child);
        let which = |why| format!("kill {kill}: {why}");
        same("the end", sys::wait(child), Ok(256 + libc::SIGKILL)).map_err(which)?;
        nobody_holds_the_module().map_err(which)?;
        if kill % 45 == 10 {
            match &before {
                None => before = Some(Used::now()?),
                Some(before) => before.nothing_more().map_err(which)?,
            }
        }
    }
    Ok(())
}
