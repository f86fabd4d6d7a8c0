//! Intel's part of Waterbear.
//!
//! | file | idea |
//! |---|---|
//! | [`ept`] | the format of EPT entries |
//! | [`detect`] | what this CPU has, or why it cannot host guests |
//! | [`controls`] | what the host decides about a guest, as this CPU allows it |
//! | [`msr_bitmap`] | which registers a guest reaches without an exit |
//! | [`rights`] | access rights of segments |
//! | [`event`] | events as entries and exits write them |
//! | [`blocking`] | what holds events off, as a control structure has it |
//! | [`exit`] | why the guest was left, in the core's words |
//! | [`vpid`] | virtual-processor identifiers, and when the TLB is flushed |
//! | [`cpu`] | reading and writing this CPU's registers, and VMX instructions |
//! | [`pages`] | pages that hardware reads by physical address |
//! | [`fields`] | the fields of the current control structure |
//! | [`loaded`] | on which CPU a control structure is |
//! | [`host`] | the host's state, noted for the exit and put back after it |
//! | [`swap`] | what neither an entry nor an exit switches |
//! | [`host_state`] | every register that a guest can change, and who puts it back |
//! | [`world`] | the switch into the guest and back |
//! | [`machine`] | what all vCPUs share |
//! | [`vcpu`] | a vCPU's state, and its control structure as a new one is |
//! | [`run`] | one run of the guest |
//! | [`vmx`] | all of it, as the core's vendor |
//!
//! # Where unsafe code lives
//!
//! In [`cpu`], [`pages`], [`fields`], [`loaded`], [`host`], [`swap`], [`world`], [`run`] and
//! [`vmx`]; everything else denies it.
//!
//! Source: Intel SDM volume 3, the chapters on virtual-machine extensions.
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod blocking;
pub mod controls;
#[cfg(target_arch = "x86_64")]
pub mod cpu;
pub mod detect;
pub mod ept;
pub mod event;
pub mod exit;
#[cfg(target_arch = "x86_64")]
pub mod fields;
#[cfg(target_arch = "x86_64")]
pub mod host;
pub mod host_state;
#[cfg(target_arch = "x86_64")]
pub mod loaded;
#[cfg(target_arch = "x86_64")]
pub mod machine;
pub mod msr_bitmap;
pub mod pages;
pub mod rights;
#[cfg(target_arch = "x86_64")]
pub mod run;
#[cfg(target_arch = "x86_64")]
pub mod swap;
#[cfg(target_arch = "x86_64")]
pub mod vcpu;
#[cfg(target_arch = "x86_64")]
pub mod vmx;
pub mod vpid;
#[cfg(target_arch = "x86_64")]
pub mod world;
