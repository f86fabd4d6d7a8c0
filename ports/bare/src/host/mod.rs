//! The machine as a host: the HAL, with nothing underneath.
//!
//! One CPU, so far. Nobody preempts, so a lock that is taken is a deadlock,
//! and is reported as one.
pub mod cpu;
pub mod fpu;
pub mod lock;
pub mod memory;
pub mod rcu;
pub mod user;

use core::fmt::Arguments;

use waterbear_hal::Log;

use crate::console::say;

/// The host. There is one, so a handle is nothing.
#[derive(Clone, Copy)]
pub struct Bare;

impl Log for Bare {
    fn info(&self, message: Arguments<'_>) {
        say!("waterbear: {message}");
    }

    fn bug(&self, what: &'static str) {
        panic!("bug: {what}");
    }
}
