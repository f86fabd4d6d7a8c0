//! Random sequences of operations, and what they have found.
#![cfg(not(loom))]

mod found;
