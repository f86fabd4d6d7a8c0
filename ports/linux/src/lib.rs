//! Waterbear on Linux.
//!
//! | file | idea |
//! |---|---|
//! | [`errno`] | errors as Linux numbers them |
//! | `glue` | the functions written in C, as declared in `glue/glue.h` |
//! | `host` | Linux as a host: the HAL |
//! | `machine` | which vendor this machine has, and the registry |
//! | `files` | the node, the descriptors, and who keeps what alive |
//! | `module` | loading and unloading, and the news that the kernel has |
//!
//! The kernel builds and links the module: see the Makefile. For any other
//! target only the error numbers are built, for their test.
//!
//! # Where unsafe code lives
//!
//! Everywhere but in [`errno`]: this crate is where Rust meets the kernel. It
//! decides nothing that the core can decide.
#![cfg_attr(not(loom), no_std)]

pub mod errno;
#[cfg(target_os = "none")]
mod files;
#[cfg(target_os = "none")]
mod glue;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod module;
