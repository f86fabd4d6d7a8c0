//! The second-level page tables, one test per sentence.
#![cfg(not(loom))]

mod map;
