//! The host changes or asks about the owner's memory.
//!
//! A port calls these from its change notifications. The slots that a change
//! is about cannot change between its beginning and its end: the gate sees to
//! that (MS-10), so both find the same ones.
use core::ops::Range;

use waterbear_hal::{Gfn, Hal, Hva};

use super::Vm;
use crate::memslot::{Slot, SlotsRead, SpaceId};
use crate::tdp::walk::Yielding;

impl<H: Hal> Vm<H> {
    /// The pages behind `range` are about to change: removes what is mapped of
    /// them, in every address space, and lets no fault map them until
    /// [`invalidate_end`](Vm::invalidate_end) with the same range. When it
    /// returns no vCPU can reach them. Sleeps only if `yielding` allows it;
    /// the caller holds no lock of ours.
    pub fn invalidate_begin(&self, range: Range<Hva>, yielding: Yielding) {
        self.memslots.gate().begin();
        let slots = self.memslots.read();
        each(&slots, &range, &mut |_slot, frames| {
            self.mmu.begin_invalidation(frames);
        });
        each(&slots, &range, &mut |slot, frames| {
            self.mmu
                .zap(&self.vcpus, slot, slot.space, frames, yielding);
        });
    }

    /// The pages behind `range` have changed. Does not sleep.
    pub fn invalidate_end(&self, range: Range<Hva>) {
        {
            let slots = self.memslots.read();
            each(&slots, &range, &mut |_slot, _frames| {
                self.mmu.end_invalidation();
            });
        }
        self.memslots.gate().end();
    }

    /// Another page was put behind `range` while a change there is announced:
    /// drops what may have been mapped since. Does not sleep.
    pub fn change_pages(&self, range: Range<Hva>) {
        let slots = self.memslots.read();
        each(&slots, &range, &mut |slot, frames| {
            self.mmu
                .zap(&self.vcpus, slot, slot.space, frames, Yielding::Forbidden);
        });
    }

    /// Clears the age of the pages behind `range`; says whether the guest used
    /// any since it was last cleared. Does not sleep.
    pub fn age(&self, range: Range<Hva>) -> bool {
        let slots = self.memslots.read();
        let mut young = false;
        each(&slots, &range, &mut |slot, frames| {
            young |= self.mmu.age(&self.vcpus, slot, slot.space, frames);
        });
        young
    }

    /// Whether the guest used any page behind `range` since its age was last
    /// cleared. Changes nothing, does not sleep.
    pub fn is_young(&self, range: Range<Hva>) -> bool {
        let slots = self.memslots.read();
        let mut young = false;
        each(&slots, &range, &mut |slot, frames| {
            young = young || self.mmu.is_young(slot.space, frames);
        });
        young
    }
}

/// Every slot of every address space that has memory in `range`, and which of
/// its frames that is.
#[inline(never)]
fn each<H: Hal>(
    slots: &SlotsRead<'_, H>,
    range: &Range<Hva>,
    visit: &mut dyn FnMut(&Slot<H>, Range<Gfn>),
) {
    for space in SpaceId::ALL {
        for slot in slots.set(space).by_hva(range.clone()) {
            if let Some(frames) = slot.gfns_of(range) {
                visit(slot, frames);
            }
        }
    }
}
