//! The host's registers, before and after each program.
use waterbear_core::host_state::HostState;

use crate::console::say;
use crate::hooks::host_state::{MOST, read};

/// A walk over the vendor's list, on the boot CPU.
pub struct HostWalk {
    states: &'static [HostState],
    before: [Option<u128>; MOST],
    sound: bool,
}

impl HostWalk {
    pub fn new(states: &'static [HostState]) -> Self {
        Self {
            states,
            before: [None; MOST],
            sound: states.len() <= MOST,
        }
    }

    /// Reads every register that can be compared.
    pub fn remember(&mut self) {
        for (place, state) in self.before.iter_mut().zip(self.states) {
            *place = read(state.read);
        }
    }

    /// Reads them again.
    pub fn compare(&mut self, program: &str) {
        for (before, state) in self.before.iter().zip(self.states) {
            let after = read(state.read);
            if *before != after {
                say!(
                    "NOTE {program} changed the host's {} from {before:x?} to {after:x?}",
                    state.name
                );
                self.sound = false;
            }
        }
    }

    pub fn is_sound(&self) -> bool {
        self.sound
    }
}
