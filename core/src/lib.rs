//! The portable core of Waterbear: everything that is neither the operating
//! system's nor the CPU vendor's.
//!
//! # Where unsafe code lives
//!
//! The crate denies unsafe code. The modules that need it say so below, each
//! is small, and each block gives its reason:
//!
//! - [`mem`]: the host's heap as an allocator, and shared ownership;
//! - [`lock`]: the host's locks, owning what they protect;
//! - [`published`]: a value that readers use while a writer replaces it;
//! - [`once_table`]: a table whose places are filled once, while others read.
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod error;
pub mod hardware;
pub mod lock;
pub mod lock_order;
pub mod mem;
pub mod once_table;
pub mod published;
pub mod registry;
pub mod request;
pub mod vcpu;
pub mod vendor;

pub use error::Error;
