//! Intel's part of Waterbear.
//!
//! What is here: the format of EPT entries, for the core's page tables.
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod ept;
