//! User addresses to data pages.

use waterbear_hal::{HostPage, Hva, Pfn, ResolveError, User};

use crate::Mock;
use crate::space::Space;

impl<const NOTIFIER: bool> User for Mock<NOTIFIER> {
    const HAS_NOTIFIER: bool = NOTIFIER;

    type Space = Space;

    #[track_caller]
    fn resolve(&self, space: &Space, hva: Hva, write: bool) -> Result<HostPage, ResolveError> {
        self.0.may_sleep("resolve");
        if let Some(error) = space.inner.injected() {
            return Err(error);
        }
        space.inner.run_before(hva);
        let found = space.inner.find(hva).ok_or(ResolveError::Fault)?;
        if found.poisoned {
            return Err(ResolveError::Poisoned);
        }
        if write && !found.writable {
            return Err(ResolveError::Fault);
        }
        self.0.pages.reference(found.pfn);
        space.inner.run_after(hva);
        Ok(HostPage {
            pfn: found.pfn,
            writable: found.writable,
            level: found.level,
        })
    }

    #[track_caller]
    fn release(&self, pfn: Pfn, dirty: bool) {
        self.0.needs_irqs_on("release");
        self.0.pages.release(pfn, dirty);
    }
}
