//! Waterbear on Linux: what other kernels do not have. The rest is in
//! `waterbear-kernel`, and in the C files in `glue/`.
//!
//! The kernel builds and links the module: see the Makefile. For any other
//! target this crate is empty.
//!
//! # Where unsafe code lives
//!
//! Here: it is where Rust meets the kernel.
#![cfg_attr(not(loom), no_std)]

#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod notifier;
