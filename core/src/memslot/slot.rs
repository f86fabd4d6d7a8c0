//! One slot: guest frames that are memory.
use core::ops::Range;

use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};
use waterbear_hal::{Gfn, Hal, Hva};

use crate::mem::Shared;

use super::arch::SlotArch;
use super::dirty::DirtyBitmap;

/// How many address spaces a VM has: the normal one, and system management
/// mode's.
pub const ADDRESS_SPACES: usize = 2;

/// The number of an address space, which exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpaceId(Number);

/// So that whoever has one knows that it is in range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
enum Number {
    Normal,
    Smm,
}

impl SpaceId {
    /// What a vCPU sees outside system management mode.
    pub const NORMAL: SpaceId = SpaceId(Number::Normal);
    /// What a vCPU sees in system management mode.
    pub const SMM: SpaceId = SpaceId(Number::Smm);
    /// Every address space.
    pub const ALL: [SpaceId; ADDRESS_SPACES] = [SpaceId::NORMAL, SpaceId::SMM];

    /// The address space of that number, if there is one.
    pub fn new(number: u32) -> Option<SpaceId> {
        SpaceId::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The number, below [`ADDRESS_SPACES`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

bitflags::bitflags! {
    /// What user space can ask of a slot. The values are those of the KVM
    /// interface.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SlotFlags: u32 {
        /// Record which pages are written.
        const LOG_DIRTY = 1 << 0;
        /// The guest cannot write; its writes go to user space.
        const READONLY = 1 << 1;
    }
}

/// One slot.
///
/// Immutable once it is published: a change replaces the slot by another. What
/// does change, the counts in [`arch`](Slot::arch) and the bits in
/// [`dirty`](Slot::dirty), is atomic and is shared by the slot and its
/// replacements. So an INVALID copy has the *same* arch data as the slot that
/// it hides: what is activated on the copy is there when the slot comes back,
/// and "refresh the arch data" (MS-3) cannot be forgotten.
pub struct Slot<H: Hal> {
    /// The name user space gave it, below [`MAX_SLOTS`](super::MAX_SLOTS).
    pub id: u32,
    /// The address space that it is in.
    pub space: SpaceId,
    /// The first frame.
    pub base: Gfn,
    /// The number of frames, at least one.
    pub npages: u64,
    /// Where the owner has the first frame; a multiple of 4096.
    pub hva: Hva,
    /// What user space asked for.
    pub flags: SlotFlags,
    /// Whether the slot is on its way out. It maps nothing new: a fault on it
    /// retries, a prefault says "again" (MS-7).
    pub invalid: bool,
    /// Counts that belong to the slot.
    pub arch: Shared<SlotArch<H>, H>,
    /// Which pages were written, while [`SlotFlags::LOG_DIRTY`] is set.
    pub dirty: Option<Shared<DirtyBitmap<H>, H>>,
}

impl<H: Hal> Slot<H> {
    /// A copy that is marked INVALID and shares everything else.
    pub(super) fn invalid_copy(&self) -> Self {
        Self {
            invalid: true,
            arch: self.arch.clone(),
            dirty: self.dirty.clone(),
            ..*self
        }
    }

    /// Whether the other has the same name, frames and memory.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let place = |slot: &Self| (slot.id, slot.base, slot.npages, slot.hva);
        place(self) == place(other)
    }

    /// The frame behind the last.
    pub fn end(&self) -> Gfn {
        // Does not wrap: the region was checked (MS-8).
        self.base.add(self.npages)
    }

    /// The address behind the last byte.
    pub fn hva_end(&self) -> Hva {
        // Does not wrap: the region was checked (MS-8).
        Hva(self.hva.0 + self.npages * PAGE_SIZE)
    }

    /// Whether the frame is in the slot.
    pub fn contains(&self, gfn: Gfn) -> bool {
        self.base <= gfn && gfn < self.end()
    }

    /// How many frames into the slot `gfn` is.
    pub fn offset(&self, gfn: Gfn) -> Option<u64> {
        self.contains(gfn).then(|| gfn.0 - self.base.0)
    }

    /// Where the owner has the frame.
    pub fn hva_of(&self, gfn: Gfn) -> Option<Hva> {
        Some(Hva(self.hva.0 + self.offset(gfn)? * PAGE_SIZE))
    }

    /// The frames that have a byte in the range of addresses, if any has.
    pub fn gfns_of(&self, range: &Range<Hva>) -> Option<Range<Gfn>> {
        let start = range.start.max(self.hva);
        let end = range.end.min(self.hva_end());
        if start >= end {
            return None;
        }
        let first = (start.0 - self.hva.0) >> PAGE_SHIFT;
        let behind = (end.0 - self.hva.0).div_ceil(PAGE_SIZE);
        Some(self.base.add(first)..self.base.add(behind))
    }

    /// Whether writes to the slot are recorded.
    pub fn logs_dirty(&self) -> bool {
        self.flags.contains(SlotFlags::LOG_DIRTY)
    }

    /// Whether the guest cannot write to the slot.
    pub fn read_only(&self) -> bool {
        self.flags.contains(SlotFlags::READONLY)
    }

    /// Records that the guest's frame was written, if the slot keeps a record.
    pub fn mark_dirty(&self, gfn: Gfn) {
        if let (Some(dirty), Some(offset)) = (&self.dirty, self.offset(gfn)) {
            dirty.mark(offset);
        }
    }
}
