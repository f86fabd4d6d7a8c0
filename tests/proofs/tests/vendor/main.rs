//! Vendors: registration, and switching hardware virtualisation on and off.
#![cfg(not(loom))]

mod either;
mod hardware;
mod registry;
