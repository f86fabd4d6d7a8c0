//! Guests' FPU state: nothing is in it, but who has it loaded is watched.

use waterbear_hal::{AllocError, Fpu};

use crate::leaks::Alive;
use crate::{Mock, broken};

/// A guest's FPU state.
pub struct GuestFpu {
    loaded: bool,
    _alive: Alive,
}

// SAFETY: there are no registers that could mix.
unsafe impl<const NOTIFIER: bool> Fpu for Mock<NOTIFIER> {
    type GuestFpu = GuestFpu;

    #[track_caller]
    fn new_guest_fpu(&self) -> Result<GuestFpu, AllocError> {
        self.0.may_sleep("new_guest_fpu");
        self.0.inject.allocation()?;
        Ok(GuestFpu {
            loaded: false,
            _alive: Alive::new(&self.0, |live| &live.fpus),
        })
    }

    #[track_caller]
    fn load_guest_fpu(&self, fpu: &mut GuestFpu) {
        self.0.may_sleep("load_guest_fpu");
        if self.0.thread().guest_fpu.replace(true) || fpu.loaded {
            broken!("a guest's FPU state is loaded twice");
        }
        fpu.loaded = true;
    }

    #[track_caller]
    fn unload_guest_fpu(&self, fpu: &mut GuestFpu) {
        self.0.may_sleep("unload_guest_fpu");
        if !self.0.thread().guest_fpu.replace(false) || !fpu.loaded {
            broken!("a guest's FPU state is put away that this thread has not loaded");
        }
        fpu.loaded = false;
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Whether this thread has a guest's FPU state loaded.
    pub fn has_guest_fpu(&self) -> bool {
        self.0.thread().guest_fpu.get()
    }
}
