//! Slots come and go: what the page tables do about it.
use waterbear_hal::{Hal, Level};

use super::Vm;
use super::fault::VcpuMmu;
use crate::Error;
use crate::memslot::{Change, Region, Slot, SlotHooks, SpaceId};
use crate::tdp::walk::Yielding;

impl<H: Hal> Vm<H> {
    /// Creates, deletes, moves or changes a slot. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// As [`Memslots::set_region`](crate::memslot::Memslots::set_region).
    pub fn set_region(&self, region: Region) -> Result<(), Error> {
        self.memslots.set_region(self, region)
    }

    /// Maps in large pieces again what dirty logging has left in small ones.
    /// Best effort: what cannot be mapped now stays as it is and is right as
    /// it is. May sleep.
    fn collapse(&self, slot: &Slot<H>) {
        if !slot.arch.take_held_back() {
            return;
        }
        let mut vcpu = VcpuMmu::within(slot.space);
        let mut from = slot.base;
        while let Some(table) = self.mmu.next_small(slot.space, from..slot.end()) {
            // The fault path replaces a table by a leaf wherever a leaf may
            // stand, so looking for the large page is all there is to do.
            let _ = self.prefault(&mut vcpu, table.gpa());
            from = table.align_down(Level::L2).add(Level::L2.pages());
            self.hal.yield_now();
        }
    }
}

impl<H: Hal> SlotHooks<H> for Vm<H> {
    fn zap_slot(&self, slot: &Slot<H>) {
        let frames = slot.base..slot.end();
        self.mmu
            .zap(&self.vcpus, slot, slot.space, frames, Yielding::Allowed);
    }

    fn committed(&self, change: &Change<'_, H>) {
        match change {
            Change::Flags { old, new } => match (old.logs_dirty(), new.logs_dirty()) {
                (false, true) => {
                    // What was written before is not in the log: `()`.
                    let frames = new.base..new.end();
                    self.mmu.start_logging(&self.vcpus, &(), new.space, frames);
                }
                (true, false) => self.collapse(new),
                _ => {}
            },
            // PT-6: now that it can no longer fail. Nobody is registered before
            // the counts are there.
            Change::Delete { old } if self.memslots.track_active() => {
                self.trackers
                    .each(|tracker| tracker.track_remove_region(old.space, old.base, old.npages));
            }
            _ => {}
        }
    }

    fn move_allowed(&self) -> bool {
        self.trackers.is_empty()
    }

    fn mmio_generation_wrapped(&self, _space: SpaceId) {
        // Once in half a million updates, so the simplest way: every vCPU gets
        // a new root without any entry.
        let slots = self.memslots.read();
        self.mmu
            .invalidate_roots(&self.vcpus, SpaceId::ALL.map(|space| slots.set(space)));
    }
}
