//! The interface, as a monitor on the mock host sees it.
#![cfg(not(loom))]

mod clock;
mod listeners;
mod lists;
mod signals;
mod stats;
mod support;
mod zones;
