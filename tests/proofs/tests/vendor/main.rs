//! Vendors: registration, and switching hardware virtualisation on and off.
#![cfg(not(loom))]

mod hardware;
mod registry;
