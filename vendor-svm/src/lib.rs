//! AMD's part of Waterbear.
//!
//! | file | idea |
//! |---|---|
//! | [`npt`] | the format of nested page-table entries |
//! | [`detect`] | what this CPU has, or why it cannot host guests |
//! | [`vmcb`] | the control block of a vCPU, field by field |
//! | [`world`] | the switch into the guest and back |
//! | [`cpu`] | reading and writing this CPU's registers |
//! | [`svm`] | all of it, as the core's vendor |
//!
//! # Where unsafe code lives
//!
//! In [`cpu`], [`world`] and [`svm`]; everything else denies it.
//!
//! Source: AMD APM volume 2, "Secure Virtual Machine".
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub mod cpu;
pub mod detect;
pub mod npt;
#[cfg(target_arch = "x86_64")]
pub mod svm;
pub mod vmcb;
#[cfg(target_arch = "x86_64")]
pub mod world;
