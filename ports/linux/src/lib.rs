//! Waterbear on Linux.
//!
//! So far: the numbers that Linux gives to the core's errors. The kernel module
//! is still to be written.
#![cfg_attr(not(loom), no_std)]
#![forbid(unsafe_code)]

pub mod errno;
