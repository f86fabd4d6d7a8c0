//! Emulation of the guest's instructions: against a second decoder, against this CPU, and by table.
#![cfg(not(loom))]

mod agree;
mod chaos;
mod devices;
mod flat;
#[cfg(target_arch = "x86_64")]
mod form;
#[cfg(target_arch = "x86_64")]
mod forms;
mod fuzz;
#[cfg(target_arch = "x86_64")]
mod host;
mod legal;
mod lengths;
#[cfg(target_arch = "x86_64")]
mod oracle;
mod segments;
mod strings;
