//! Emulation of the guest's instructions: against a second decoder, against this CPU, and by table.
#![cfg(not(loom))]

mod agree;
mod chaos;
mod devices;
mod flat;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod form;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod forms;
mod fuzz;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod host;
mod legal;
mod lengths;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod oracle;
mod segments;
mod strings;
