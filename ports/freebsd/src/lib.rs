//! Waterbear on FreeBSD.
//!
//! | file | idea |
//! |---|---|
//! | [`errno`] | errors as FreeBSD numbers them |
//! | [`commands`] | the commands as FreeBSD numbers them |
//! | `glue` | the functions written in C, as declared in `glue/glue.h` |
//! | `host` | FreeBSD as a host: the HAL |
//! | `machine` | which vendor this machine has, and the registry |
//! | `files` | the node, the descriptors, and who keeps what alive |
//! | `module` | loading and unloading, and the news that the kernel has |
//!
//! The module is linked from this and from the C files; see the Makefile, and
//! `cargo xtask build --port freebsd`. For any other target only the numbers
//! are built, for their tests.
//!
//! # Where unsafe code lives
//!
//! Everywhere but in [`errno`] and [`commands`]: this crate is where Rust meets
//! the kernel. It decides nothing that the core can decide.
#![cfg_attr(not(any(loom, test)), no_std)]

pub mod commands;
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
