//! Guests' FPU state: any bytes, and who has it loaded is watched.

use waterbear_hal::{AllocError, Fpu};

use crate::leaks::Alive;
use crate::{Mock, broken};

/// How many bytes a state has.
const AREA: usize = 1024;

/// A guest's FPU state.
pub struct GuestFpu {
    loaded: bool,
    area: [u8; AREA],
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
            area: [0; AREA],
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

    fn read_guest_fpu(&self, fpu: &GuestFpu, into: &mut [u8]) -> bool {
        if fpu.loaded {
            broken!("a guest's FPU state is read while it is in the CPU");
        }
        into.fill(0);
        let copied = into.iter_mut().zip(fpu.area);
        copied.map(|(to, from)| *to = from).count() == AREA
    }

    fn write_guest_fpu(&self, fpu: &mut GuestFpu, from: &[u8]) -> bool {
        if fpu.loaded {
            broken!("a guest's FPU state is replaced while it is in the CPU");
        }
        let Some(area) = from.first_chunk() else {
            return false;
        };
        fpu.area = *area;
        true
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Whether this thread has a guest's FPU state loaded.
    pub fn has_guest_fpu(&self) -> bool {
        self.0.thread().guest_fpu.get()
    }
}
