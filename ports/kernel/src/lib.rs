//! What Waterbear needs on any kernel that is written in C: the ports to Linux
//! and FreeBSD are this crate and their own C files, and on FreeBSD a little more
//! Rust for what other kernels do not have.
//!
//! | file | idea |
//! |---|---|
//! | [`errno`] | errors as numbers |
//! | `glue` | the functions written in C, as declared in `glue.h` |
//! | `host` | the kernel as a host: the HAL |
//! | `machine` | which vendor this machine has, and the registry |
//! | `files` | the node, the descriptors, and who keeps what alive |
//! | `module` | loading and unloading, and the news that the kernel has |
//! | `notifier` | what the kernel tells of the memory of a VM's owner |
//!
//! What a kernel has or not is a feature of this crate; see `Cargo.toml`. For
//! targets with an operating system only the numbers of errors are built, for
//! their test.
//!
//! # Where unsafe code lives
//!
//! Everywhere but in [`errno`]: this crate is where Rust meets the kernel. It
//! decides nothing that the core can decide.
#![cfg_attr(not(loom), no_std)]

pub mod errno;
#[cfg(target_os = "none")]
pub mod files;
#[cfg(target_os = "none")]
pub mod glue;
#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
mod module;
#[cfg(all(target_os = "none", feature = "notifications"))]
mod notifier;
