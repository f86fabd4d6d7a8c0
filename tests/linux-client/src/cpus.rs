//! The CPUs that run guests: not the first, where there are more than two.
//!
//! In QEMU 7.2 every XRSTOR, FXRSTOR and FLDENV, on whichever CPU, reads flags of the first CPU and
//! writes them back, with no lock (`cpu_clear_ignne`). Among these flags are whether nested paging is
//! on and whether interrupts are let in. If the first CPU changes them meanwhile, as VMRUN and #VMEXIT
//! do, the change is lost: then a guest runs without nested paging, in the host's memory, or the host
//! runs with it, and its first instruction makes a second #VMEXIT, which puts the host's registers
//! where the guest's were.
use std::fs;

use crate::{Outcome, sys};

/// How many there are, on or off.
fn count() -> Result<u32, String> {
    let file = "/sys/devices/system/cpu/present";
    let range = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let last = range.trim().rsplit('-').next().unwrap_or_default();
    let last: u32 = last.parse().map_err(|_| format!("{file}: {range}"))?;
    Ok(last + 1)
}

/// The number of the first that runs guests.
fn first() -> Result<u32, String> {
    Ok(u32::from(count()? > 2))
}

/// The number of the last.
fn last() -> Result<u32, String> {
    Ok(count()? - 1)
}

/// The bit of the first that runs guests.
pub fn one() -> Result<u64, String> {
    Ok(1 << first()?)
}

/// The bit of the last.
pub fn other() -> Result<u64, String> {
    Ok(1 << last()?)
}

/// Switches on what the kernel has left off, and keeps this process on the CPUs that run guests.
pub fn start() -> Outcome {
    (1..=last()?).try_for_each(|cpu| switch(cpu, true))?;
    stay()
}

/// Keeps this process, and those that it starts, on the CPUs that run guests.
fn stay() -> Outcome {
    sys::stay_on_cpus((2 << last()?) - (1 << first()?))
}

/// Does it with this process, and those that it starts, on one CPU.
pub fn on_one<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    sys::stay_on_cpus(one()?)?;
    let result = act();
    stay()?;
    Ok(result)
}

/// Switches a CPU off or on.
fn switch(cpu: u32, on: bool) -> Outcome {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    fs::write(&file, if on { "1" } else { "0" }).map_err(|error| format!("{file}: {error}"))
}

/// Switches the last CPU off or on.
pub fn switch_last(on: bool) -> Outcome {
    switch(last()?, on)
}

/// Does it while the first CPU is the only one.
pub fn alone(act: impl FnOnce() -> Outcome) -> Outcome {
    sys::stay_on_cpus(!0)?;
    let others = 1..=last()?;
    others.clone().try_for_each(|cpu| switch(cpu, false))?;
    let outcome = act();
    others.into_iter().try_for_each(|cpu| switch(cpu, true))?;
    stay()?;
    outcome
}
