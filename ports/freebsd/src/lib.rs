//! Waterbear on FreeBSD: what other kernels do not have. The rest is in
//! `waterbear-kernel`, and in the C files in `glue/`.
//!
//! | file | idea |
//! |---|---|
//! | [`commands`] | the commands as FreeBSD numbers them |
//! | `region` | the memory of a VM's slots, which is pinned |
//! | `mapping` | mappings of a vCPU's memory |
//!
//! The module is linked from this and from the C files; see the Makefile, and
//! `cargo xtask build --port freebsd`. For any other target only the numbers
//! are built, for their tests.
//!
//! # Where unsafe code lives
//!
//! Everywhere but in [`commands`]: this is where Rust meets the kernel.
#![cfg_attr(not(any(loom, test)), no_std)]

pub mod commands;
#[cfg(target_os = "none")]
mod mapping;
#[cfg(target_os = "none")]
mod region;
