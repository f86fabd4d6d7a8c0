//! The interface, as a monitor on the mock host sees it.
#![cfg(not(loom))]

mod area;
mod clock;
mod listeners;
mod lists;
mod machine_check;
mod prefault;
mod signals;
mod state;
mod stats;
mod support;
mod tsc;
mod zones;
