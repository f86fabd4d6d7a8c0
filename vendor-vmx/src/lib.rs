//! Intel's part of Waterbear.
//!
//! | file | idea |
//! |---|---|
//! | [`ept`] | the format of EPT entries |
//! | [`detect`] | what this CPU has, or why it cannot host guests |
//! | [`cpu`] | reading and writing this CPU's registers, and VMX instructions |
//! | [`controls`] | what the host decides about a guest, as this CPU allows it |
//! | [`state`] | the host's and the guest's state in a control structure |
//! | [`world`] | the switch into the guest and back |
//! | [`vmx`] | all of it, as the core's vendor |
//!
//! # Where unsafe code lives
//!
//! In [`cpu`], [`state`], [`world`] and [`vmx`]; everything else denies it.
//!
//! Source: Intel SDM volume 3, the chapters on virtual-machine extensions.
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod controls;
#[cfg(target_arch = "x86_64")]
pub mod cpu;
pub mod detect;
pub mod ept;
#[cfg(target_arch = "x86_64")]
pub mod state;
#[cfg(target_arch = "x86_64")]
pub mod vmx;
#[cfg(target_arch = "x86_64")]
pub mod world;
