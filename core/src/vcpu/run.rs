//! One attempt to run a vCPU.
use waterbear_hal::{Hal, Pfn, Pinned};

use super::Vcpu;
use crate::Error;
use crate::exit::Exit;
use crate::request::Request;
use crate::vendor::{Left, Vendor};

/// What a vCPU's thread does in an attempt, beside the attempt itself.
pub trait Owner<V: Vendor> {
    /// Gets a root that is valid now. Should it become obsolete before the
    /// guest runs, the request that says so keeps the vCPU from entering. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// Its own; the attempt ends with it.
    fn reload(&mut self) -> Result<Pfn, Error>;

    /// Takes up a request that is not the core's own. May sleep.
    ///
    /// # Errors
    ///
    /// Its own; the attempt ends with it, and the request stays pending.
    fn handle(&mut self, _request: Request, _state: &mut V::Vcpu) -> Result<(), Error> {
        Ok(())
    }

    /// Deals with an exit before the guest's state is out of the CPU, as
    /// [`Vendor::switch_in`] says, and the guest goes on; says whether it has.
    fn finish(&mut self, _state: &mut V::Vcpu, _exit: Exit) -> bool {
        false
    }
}

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
    /// request came in between, a signal waits or another thread wants the
    /// CPU. Says why the guest was left, if it was entered and `owner` has not
    /// dealt with that. May sleep before it enters; not loaded, interrupts on.
    ///
    /// # Errors
    ///
    /// [`Error::Dead`] when the VM is dead; any error of `owner`.
    pub fn attempt<H: Hal>(
        &mut self,
        hal: &H,
        vcpu: &Vcpu<H>,
        vendor: &V,
        owner: &mut impl Owner<V>,
    ) -> Result<Option<Exit>, Error> {
        if vcpu.requests().any() {
            self.take_requests(vcpu, vendor, owner)?;
        }
        let Self { state, root } = self;
        let root = match *root {
            Some(root) => root,
            None => {
                let new = owner.reload()?;
                // The frame may have been a root before, of this VM or of
                // another, and its translations may still be in the TLB.
                vendor.flush_tlb(state);
                *root.insert(new)
            }
        };
        let pinned = Pinned::new(hal);
        let cpu = pinned.cpu();
        vendor.prepare(state, cpu);
        let mut left = None;
        vcpu.load(&pinned).enter(|_irq_off| {
            // With interrupts on it would be too early: the interrupt that tells of either
            // would come and go before the guest runs.
            let held_up = || hal.held_up();
            if held_up() {
                return;
            }
            hal.refresh_guest_fpu();
            if let Err(exit) = vendor.switch_in(state, cpu, root) {
                left = Some(exit);
                return;
            }
            // Nothing returns before `switch_out`.
            loop {
                let Left { exit, whole } = vendor.enter(state);
                if !whole || !owner.finish(state, exit) {
                    left = Some(exit);
                    break;
                }
                // The mode has been `InGuest` all the time, so whoever made a request since the
                // last look interrupts this CPU, and the next entry ends as it begins (KR-1). This
                // look only makes it sooner.
                if vcpu.is_wanted() || held_up() {
                    break;
                }
            }
            vendor.switch_out(state);
        });
        Ok(left)
    }

    #[cold]
    fn take_requests<H: Hal>(
        &mut self,
        vcpu: &Vcpu<H>,
        vendor: &V,
        owner: &mut impl Owner<V>,
    ) -> Result<(), Error> {
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
            _ => owner.handle(request, state),
        })
    }
}
