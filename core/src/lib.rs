//! The portable core of Waterbear: everything that is neither the operating
//! system's nor the CPU vendor's.
//!
//! # Mechanisms
//!
//! - [`memslot`]: which guest frames are memory, and where the owner has it.
//! - [`spte`]: entries of second-level page tables, as bits.
//! - [`tdp`]: second-level page tables, changed in parallel.
//! - [`vm`]: a VM, and what happens when its guest faults.
//! - [`paging`]: the guest's own page tables, walked as its CPU does.
//! - [`page_track`]: outside users that see the guest's writes.
//! - [`request`], [`vcpu`]: what a vCPU is asked to do, and how it is reached.
//! - [`arch`]: the guest's CPU in words that both vendors share.
//! - [`bus`]: writes to devices that the kernel takes for its owner.
//! - [`clock`]: the clock that a guest reads from its memory.
//! - [`run`]: the loop that runs a vCPU, and what is done about each exit.
//! - [`emulate`]: instructions that the CPU leaves to the host.
//! - [`exit`], [`regs`]: why a vCPU left the guest, and what it left.
//! - [`host_state`]: what of the host's a guest can change.
//! - [`vendor`], [`registry`], [`hardware`]: which CPU vendor's part runs, and
//!   on which CPUs its extension is switched on.
//! - [`stats`]: what is counted.
//! - [`abi`]: the ioctl interface to user space.
//!
//! What each of them guarantees stands in [`rules`], by number; the order in
//! which locks are taken in [`lock_order`].
//!
//! # Where unsafe code lives
//!
//! The crate denies unsafe code. The modules that need it say so below, each
//! is small, and each block gives its reason:
//!
//! - [`mem`]: the host's heap as an allocator, shared ownership, pages that user space maps;
//! - [`lock`]: the host's locks, owning what they protect;
//! - [`once`]: an array that is allocated when its first user comes;
//! - [`once_table`]: a table whose places are filled once, while others read;
//! - [`published`]: a value that readers use while a writer replaces it;
//! - [`tdp::table`]: live page tables.
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod arch;
pub mod bus;
pub mod clock;
pub mod emulate;
pub mod error;
pub mod exit;
pub mod hardware;
pub mod host_state;
pub mod lock;
pub mod lock_order;
pub mod mem;
pub mod memslot;
pub mod once;
pub mod once_table;
pub mod page_track;
pub mod paging;
pub mod published;
pub mod registry;
pub mod regs;
pub mod request;
pub mod run;
pub mod spte;
pub mod stats;
pub mod tdp;
pub mod vcpu;
pub mod vendor;
pub mod vm;

/// The rules that the core keeps. Code and tests name them by their ids.
pub mod rules {
    #![doc = include_str!("rules.md")]
}

pub use error::{Error, MemoryError};
