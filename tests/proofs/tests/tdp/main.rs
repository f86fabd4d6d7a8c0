//! The second-level page tables, one test per sentence.
#![cfg(not(loom))]

mod support;

mod age;
mod checks;
mod dirty;
mod entries;
mod fast;
mod huge;
mod map;
mod memory;
mod mmio;
mod notify;
mod pins;
mod prefault;
mod quick;
mod rewind;
mod roots;
mod threads;
mod transition;
mod zap;
