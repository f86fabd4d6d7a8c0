//! AMD's part of Waterbear.
//!
//! What is here: the format of nested page-table entries, for the core's page
//! tables.
#![cfg_attr(not(loom), no_std)]
#![deny(unsafe_code)]

pub mod npt;
