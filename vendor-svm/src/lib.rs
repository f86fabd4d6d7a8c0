//! AMD's part of Waterbear.
//!
//! | file | idea |
//! |---|---|
//! | [`npt`] | the format of nested page-table entries |
//! | [`detect`] | what this CPU has, or why it cannot host guests |
//! | [`vmcb`] | the control block of a vCPU, field by field |
//! | [`clean`] | what the CPU may keep of it between two runs |
//! | [`intercept`] | what makes the guest exit |
//! | [`permission`] | which MSRs and ports it reaches by itself |
//! | [`asid`] | whose translations the TLB holds |
//! | [`event`] | events as the control block writes them |
//! | [`nmi`] | when the guest can take an NMI |
//! | [`segment`] | segment and descriptor-table registers |
//! | [`exit`] | why the guest was left |
//! | [`pages`] | memory that hardware reads |
//! | [`cpu`] | reading and writing this CPU's registers |
//! | [`by_hand`] | host registers that no instruction gives back |
//! | [`host_state`] | every register that a guest's run could change, and who gives it back |
//! | [`world`] | the switch into the guest and back |
//! | [`vcpu`] | a vCPU before and after a run |
//! | [`svm`] | which CPUs it is on, and the way in and out |
//! | [`hooks`] | all of it, as the core's vendor |
//!
//! # Where unsafe code lives
//!
//! In [`cpu`], [`by_hand`], [`pages`], [`world`] and [`svm`]; everything else denies it.
//!
//! Source: AMD APM volume 2, "Secure Virtual Machine".
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod asid;
#[cfg(target_arch = "x86_64")]
pub mod by_hand;
pub mod clean;
#[cfg(target_arch = "x86_64")]
pub mod cpu;
pub mod detect;
pub mod event;
pub mod exit;
#[cfg(target_arch = "x86_64")]
pub mod hooks;
#[cfg(target_arch = "x86_64")]
pub mod host_state;
pub mod intercept;
pub mod nmi;
pub mod npt;
pub mod pages;
pub mod permission;
pub mod segment;
#[cfg(target_arch = "x86_64")]
pub mod svm;
#[cfg(target_arch = "x86_64")]
pub mod vcpu;
pub mod vmcb;
#[cfg(target_arch = "x86_64")]
pub mod world;
