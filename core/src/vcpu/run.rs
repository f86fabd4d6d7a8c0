//! One attempt to run a vCPU.
use waterbear_hal::{Hal, Pfn, Pinned};

use super::Vcpu;
use crate::Error;
use crate::exit::Exit;
use crate::request::Request;
use crate::vendor::Vendor;

/// What the vCPU's thread keeps from one attempt to the next.
pub struct Runner<V: Vendor> {
    state: V::Vcpu,
    root: Option<Pfn>,
}

impl<V: Vendor> Runner<V> {
    /// A vCPU that has not run yet and has no root.
    pub fn new(state: V::Vcpu) -> Self {
        Self { state, root: None }
    }

    /// The vendor's state of the vCPU.
    pub fn state(&mut self) -> &mut V::Vcpu {
        &mut self.state
    }

    /// Takes the pending requests up and enters the guest, unless another
    /// request came in between, a signal waits or another thread wants the CPU. Says why the guest was left, if it was entered. May sleep
    /// before it enters; not loaded, interrupts on.
    ///
    /// `reload` gets a root that is valid now; should it become obsolete
    /// before the guest runs, the request that says so keeps the vCPU from
    /// entering. `handle` takes up the requests that are not the core's own.
    ///
    /// # Errors
    ///
    /// [`Error::Dead`] when the VM is dead; any error of `reload` or `handle`,
    /// and their request is pending still.
    pub fn attempt<H: Hal>(
        &mut self,
        hal: &H,
        vcpu: &Vcpu<H>,
        vendor: &V,
        mut reload: impl FnMut() -> Result<Pfn, Error>,
        mut handle: impl FnMut(Request, &mut V::Vcpu) -> Result<(), Error>,
    ) -> Result<Option<Exit>, Error> {
        let Self { state, root } = self;
        vcpu.check_requests(|request| match request {
            Request::MMU_RELOAD => {
                *root = None;
                Ok(())
            }
            Request::TLB_FLUSH => {
                vendor.flush_tlb(state);
                Ok(())
            }
            // It is not blocked.
            Request::UNBLOCK => Ok(()),
            _ => handle(request, state),
        })?;
        let root = match *root {
            Some(root) => root,
            None => {
                let new = reload()?;
                // The frame may have been a root before, of this VM or of
                // another, and its translations may still be in the TLB.
                vendor.flush_tlb(state);
                *root.insert(new)
            }
        };
        let pinned = Pinned::new(hal);
        vendor.prepare(state, pinned.cpu());
        Ok(vcpu
            .load(&pinned)
            .enter(|_irq_off| {
                // With interrupts on it would be too early: the interrupt that tells of either
                // would come and go before the guest runs.
                let held_up = hal.signal_pending() || hal.should_yield();
                (!held_up).then(|| {
                    hal.refresh_guest_fpu();
                    vendor.enter(state, root)
                })
            })
            .flatten())
    }
}
