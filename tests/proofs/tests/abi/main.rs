//! The interface, as a monitor on the mock host sees it.
#![cfg(not(loom))]

mod listeners;
mod lists;
mod signals;
mod support;
mod zones;
