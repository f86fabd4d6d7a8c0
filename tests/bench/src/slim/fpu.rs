//! No guest runs here, so there is nothing to keep apart.
use waterbear_hal::{AllocError, Fpu};

use super::SlimHost;

// SAFETY: no guest runs.
unsafe impl Fpu for SlimHost {
    type GuestFpu = ();

    fn new_guest_fpu(&self) -> Result<(), AllocError> {
        Ok(())
    }

    fn load_guest_fpu(&self, _fpu: &mut ()) {}

    fn unload_guest_fpu(&self, _fpu: &mut ()) {}
}
