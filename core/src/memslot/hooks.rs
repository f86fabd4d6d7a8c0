//! What the rest of the VM does during an update.
use waterbear_hal::Hal;

use crate::mem::Shared;

use super::slot::{Slot, SpaceId};

/// An update that is done.
pub enum Change<'a, H: Hal> {
    /// A new slot.
    Create {
        /// What there is now.
        new: &'a Shared<Slot<H>, H>,
    },
    /// A slot is gone.
    Delete {
        /// What there was.
        old: &'a Shared<Slot<H>, H>,
    },
    /// A slot has another base, and new arch data.
    Move {
        /// What there was.
        old: &'a Shared<Slot<H>, H>,
        /// What there is now.
        new: &'a Shared<Slot<H>, H>,
    },
    /// A slot has other flags.
    Flags {
        /// What there was.
        old: &'a Shared<Slot<H>, H>,
        /// What there is now.
        new: &'a Shared<Slot<H>, H>,
    },
}

impl<H: Hal> Change<'_, H> {
    /// The slot as it was.
    pub fn before(&self) -> Option<&Shared<Slot<H>, H>> {
        match self {
            Change::Create { .. } => None,
            Change::Delete { old } | Change::Move { old, .. } | Change::Flags { old, .. } => {
                Some(old)
            }
        }
    }

    /// The slot as it is.
    pub fn after(&self) -> Option<&Shared<Slot<H>, H>> {
        match self {
            Change::Delete { .. } => None,
            Change::Create { new } | Change::Move { new, .. } | Change::Flags { new, .. } => {
                Some(new)
            }
        }
    }
}

/// What the rest of the VM does during an update. Each is called with
/// `slots_lock` held and nothing else: no other lock and no read section. Each
/// may sleep, and may open a read section.
pub trait SlotHooks<H: Hal> {
    /// Removes every mapping of the slot and flushes. The slot is INVALID and
    /// no reader has an older view of it, so nothing new appears (MS-3).
    ///
    /// The DELETE or MOVE may still fail: then the slot becomes valid again and
    /// its pages fault in again (MS-4).
    fn zap_slot(&self, slot: &Slot<H>);

    /// The update is done: its set is published, and nobody uses an older one.
    fn committed(&self, change: &Change<'_, H>);

    /// The part of the generation that MMIO entries keep began again: removes
    /// every MMIO entry of the address space. No new one appears meanwhile,
    /// because the update is still in progress (MS-9).
    fn mmio_generation_wrapped(&self, space: SpaceId);

    /// Whether a slot may move. An external page tracker forbids it (PT-6).
    fn move_allowed(&self) -> bool {
        true
    }

    /// Whether a new dirty bitmap begins with every bit set.
    fn dirty_log_starts_set(&self) -> bool {
        false
    }
}
