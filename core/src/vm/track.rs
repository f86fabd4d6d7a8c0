//! Tracking writes: which pages, and who is told (PT-1 to PT-7).
//!
//! A page is tracked in one address space: the other may have another page at
//! the same frame, and has counts of its own.
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Gpa, Hal, Word};

use super::Vm;
use crate::Error;
use crate::mem::Shared;
use crate::memslot::{SlotArch, SpaceId};
use crate::page_track::TrackerRef;
use crate::request::Request;

/// The bits of an address that name a byte of a page.
const OFFSET: u64 = PAGE_SIZE - 1;

impl<H: Hal> Vm<H> {
    /// Adds a tracker to a page. When this returns no vCPU writes to the page
    /// in that address space without an exit. May sleep; no lock of ours but
    /// `slots_lock`, and no read section of slots held.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: the frame is not memory.
    /// - [`Error::Again`]: its slot is on its way out, and may yet come back.
    /// - [`Error::Busy`]: it has as many trackers as can be counted (PT-1).
    /// - [`Error::NoMemory`].
    ///
    /// The page has as many trackers as before.
    pub fn track_page(&self, space: SpaceId, gfn: Gfn) -> Result<(), Error> {
        // Before the section, which does not nest. From here on every slot
        // that can be found has counts (MS-5).
        self.memslots.activate_track()?;
        self.recount(space, gfn, |arch| arch.track(gfn))
    }

    /// Takes one tracker from a page. What the last one leaves behind, a page
    /// without W and a mapping in small pieces, goes with the next fault. May
    /// sleep; no read section of slots held.
    ///
    /// # Errors
    ///
    /// As [`track_page`](Vm::track_page), and [`Error::Invalid`] when the page
    /// has no tracker (PT-1).
    pub fn untrack_page(&self, space: SpaceId, gfn: Gfn) -> Result<(), Error> {
        self.recount(space, gfn, |arch| arch.untrack(gfn).map(|()| false))
    }

    /// Runs `count`, which says whether a page became tracked, on the counts of
    /// its slot. The read section keeps the slot alive (PT-3).
    fn recount(
        &self,
        space: SpaceId,
        gfn: Gfn,
        count: impl FnOnce(&SlotArch<H>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let slots = self.memslots.read();
        let slot = slots.set(space).by_gfn(gfn).ok_or(Error::NotFound)?;
        if slot.invalid {
            return Err(Error::Again);
        }
        let logs = SpaceId::ALL.map(|space| slots.set(space));
        let counted = self
            .mmu
            .change_tracking(&self.vcpus, logs, gfn, || count(&slot.arch));
        if let Err(error) = counted {
            let what = if error == Error::Busy { "high" } else { "low" };
            self.hal.info(&[
                Word::Text("frame "),
                Word::Number(gfn.0),
                Word::Text(": the count of write trackers is too "),
                Word::Text(what),
                Word::Text(" to change"),
            ]);
        }
        counted
    }

    /// The emulator has written `bytes` to memory from `gpa` on, for a vCPU in
    /// address space `space`: logs the pages as dirty and tells the trackers,
    /// in this order. May sleep; no lock held but `slots_lock`, and no read
    /// section of slots.
    pub fn written(&self, space: SpaceId, gpa: Gpa, bytes: &[u8]) {
        let Some(last) = (bytes.len() as u64).checked_sub(1) else {
            return;
        };
        {
            let slots = self.memslots.read();
            let pages = ((gpa.0 & OFFSET) + last) / PAGE_SIZE;
            for page in 0..=pages {
                let gfn = gpa.gfn().add(page);
                if let Some(slot) = slots.set(space).by_gfn(gfn) {
                    slot.mark_dirty(gfn);
                }
            }
        }
        self.tell_trackers(space, gpa, bytes);
    }

    /// Tells the trackers of `bytes` that were written from `gpa` on (PT-6). As
    /// [`written`](Vm::written), for a caller who has logged the pages.
    pub(super) fn tell_trackers(&self, space: SpaceId, gpa: Gpa, bytes: &[u8]) {
        // Nobody is registered before the counts are there.
        if self.memslots.track_active() {
            self.trackers
                .each(|tracker| tracker.track_write(space, gpa, bytes));
        }
    }

    /// Nobody runs this VM any more: its vCPUs leave the guest for good, and
    /// nobody registers with it. Spins until they are outside; interrupts on.
    pub fn kill(&self) {
        self.vcpus.make_request_all(Request::VM_DEAD);
    }
}

/// A tracker that is attached to a VM. Dropping it detaches the tracker, which
/// may sleep: see [`unregister`](Registration::unregister).
///
/// It holds a reference to the VM, so a tracker that owns its registration
/// keeps both alive for ever: the owner keeps the registration elsewhere.
pub struct Registration<H: Hal> {
    vm: Shared<Vm<H>, H>,
    tracker: TrackerRef<H>,
}

impl<H: Hal> Registration<H> {
    /// Attaches `tracker` to `vm`, and from now on slots do not move (PT-6).
    /// Waits for updates of slots that are under way. May sleep; no lock of
    /// ours and no read section held, not in a callback.
    ///
    /// # Errors
    ///
    /// [`Error::Dead`] when the VM is dead, [`Error::Exists`] when the tracker
    /// is attached to it already, [`Error::NoMemory`]. Nothing is attached.
    pub fn new(vm: &Shared<Vm<H>, H>, tracker: &TrackerRef<H>) -> Result<Self, Error> {
        vm.trackers.attach(tracker, || {
            // A MOVE that was allowed because there was no tracker is over
            // when we have the lock, and the next one finds the tracker.
            let slots = vm.memslots.lock();
            if vm.vcpus.are_dead() {
                return Err(Error::Dead);
            }
            vm.memslots.activate_track()?;
            Ok(slots)
        })?;
        Ok(Self {
            vm: vm.clone(),
            tracker: tracker.clone(),
        })
    }

    /// The VM.
    pub fn vm(&self) -> &Shared<Vm<H>, H> {
        &self.vm
    }

    /// Detaches the tracker. When this returns no callback of it runs for this
    /// VM, and none will. May sleep, as long as a callback takes; no lock that
    /// the callback takes is held, and it is not called in a callback.
    pub fn unregister(self) {
        drop(self);
    }
}

impl<H: Hal> Drop for Registration<H> {
    fn drop(&mut self) {
        self.vm.trackers.detach(&self.tracker);
    }
}
