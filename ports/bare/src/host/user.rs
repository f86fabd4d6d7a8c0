//! "User" memory: memory of the kernel's own, at its own address. It is there
//! for good, so there is nothing to notify anybody of.
use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::{HostPage, Hva, Level, Pfn, ResolveError, User};

use super::Bare;
use crate::boot::MAPPED;

impl User for Bare {
    const HAS_NOTIFIER: bool = true;

    type Space = ();

    fn resolve(&self, _space: &(), hva: Hva, _write: bool) -> Result<HostPage, ResolveError> {
        if hva.0 >= MAPPED {
            return Err(ResolveError::Fault);
        }
        Ok(HostPage {
            pfn: Pfn(hva.0 >> PAGE_SHIFT),
            writable: true,
            level: Level::L3,
        })
    }

    fn release(&self, _pfn: Pfn, _dirty: bool) {}
}
