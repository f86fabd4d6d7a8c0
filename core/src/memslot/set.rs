//! All slots of one address space.
use core::ops::Range;

use waterbear_hal::sync::atomic::{AtomicU64, Ordering};
use waterbear_hal::{Gfn, Hal, Hva};

use crate::Error;
use crate::mem::{Box, Heap, Shared, Vec, boxed, edited};

use super::generation::Generation;
use super::hva::{Hits, HvaIndex};
use super::ids::IdIndex;
use super::region::MAX_PAGES;
use super::slot::Slot;

/// How many slots an address space can have; ids are below it (MS-11).
pub const MAX_SLOTS: usize = 32_764;

/// All slots of one address space, immutable but for the mark in the
/// generation.
///
/// Each update builds a new set; old and new share the slots. There is no
/// cache of the slot that was used last: no index outlives its set, so none
/// can lead to a deleted slot (MS-7).
pub struct SlotSet<H: Hal> {
    generation: AtomicU64,
    places: Shared<Places<H>, H>,
    by_id: IdIndex<H>,
}

/// Where the slots are. Sets share it when only the flags of a slot differ.
struct Places<H: Hal> {
    /// In order of base; the slots do not overlap.
    by_gfn: Vec<Frames, H>,
    by_hva: HvaIndex<H>,
}

/// The frames of one slot: enough for a search to stay in one array.
#[derive(Clone, Copy)]
struct Frames {
    base: Gfn,
    npages: u32,
    id: u16,
}

const _: () = assert!(size_of::<Frames>() == 16);
const _: () = assert!(MAX_SLOTS <= 1 << 16 && MAX_PAGES < 1 << 32);

impl<H: Hal> SlotSet<H> {
    /// A set without slots. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub(super) fn empty(hal: &H, generation: Generation) -> Result<Box<Self, H>, Error> {
        boxed(
            hal,
            Self {
                generation: AtomicU64::new(generation.0),
                places: Shared::new(
                    hal,
                    Places {
                        by_gfn: Vec::new_in(Heap(hal.clone())),
                        by_hva: HvaIndex::new(hal),
                    },
                )?,
                by_id: IdIndex::new(hal),
            },
        )
    }

    /// This set without the slot `id`, and with `slot`, which has that id and
    /// overlaps no other. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub(super) fn with(
        &self,
        hal: &H,
        id: u32,
        slot: Option<&Shared<Slot<H>, H>>,
        generation: Generation,
    ) -> Result<Box<Self, H>, Error> {
        let places = match (self.by_id(id), slot) {
            (Some(old), Some(new)) if old.same_place(new) => self.places.clone(),
            (old, new) => Shared::new(hal, self.places.with(hal, old, new)?)?,
        };
        boxed(
            hal,
            Self {
                generation: AtomicU64::new(generation.0),
                places,
                by_id: self.by_id.with(hal, id, slot)?,
            },
        )
    }

    /// The slot that contains the frame; it may be INVALID (MS-7). Logarithmic.
    pub fn by_gfn(&self, gfn: Gfn) -> Option<&Shared<Slot<H>, H>> {
        let places = &self.places.by_gfn;
        let behind = places.partition_point(|frames| frames.base <= gfn);
        // MS-7: below the lowest slot there is nothing.
        let frames = places.get(behind.checked_sub(1)?)?;
        if gfn >= frames.end() {
            return None;
        }
        self.by_id.get(frames.id.into())
    }

    /// The slot of that name; it may be INVALID (MS-7). Constant time.
    #[inline(never)]
    pub fn by_id(&self, id: u32) -> Option<&Shared<Slot<H>, H>> {
        self.by_id.get(id)
    }

    /// The slots that have a byte in the range of host addresses, INVALID ones
    /// too, in no order. Logarithmic per hit.
    pub fn by_hva(&self, range: Range<Hva>) -> HvaHits<'_, H> {
        HvaHits {
            set: self,
            hits: self.places.by_hva.hits(range),
        }
    }

    /// The slots that have a frame in the range, in order of base. Logarithmic
    /// to begin with.
    pub fn overlapping(&self, range: Range<Gfn>) -> impl Iterator<Item = &Shared<Slot<H>, H>> {
        let first = self
            .places
            .by_gfn
            .partition_point(|frames| frames.end() <= range.start);
        let empty = range.start >= range.end;
        let from = self.places.by_gfn.get(first..).unwrap_or(&[]);
        from.iter()
            .take_while(move |frames| !empty && frames.base < range.end)
            .filter_map(|frames| self.by_id(frames.id.into()))
    }

    /// Every slot, in order of base.
    pub fn iter(&self) -> impl Iterator<Item = &Shared<Slot<H>, H>> {
        let ids = self.places.by_gfn.iter().map(|frames| frames.id.into());
        ids.filter_map(|id| self.by_id(id))
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.places.by_gfn.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.places.by_gfn.is_empty()
    }

    /// The number of this set.
    pub fn generation(&self) -> Generation {
        // Acquire: whoever sees the mark gone sees that old MMIO entries are.
        // Pairs with `settle`.
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// What an MMIO entry keeps of the generation; `None` while an update is in
    /// progress, when nothing may be cached and nothing cached is believed
    /// (MS-9).
    pub fn mmio_generation(&self) -> Option<u32> {
        self.generation().mmio()
    }

    /// Numbers a set that nobody else has.
    pub(super) fn renumber(&mut self, generation: Generation) {
        // Relaxed: publishing the set orders it.
        self.generation.store(generation.0, Ordering::Relaxed);
    }

    /// Takes the mark "in progress" away. Only the updater calls it.
    pub(super) fn settle(&self) {
        let settled = self.generation().settled();
        // Release: pairs with `generation`.
        self.generation.store(settled.0, Ordering::Release);
    }
}

impl<H: Hal> Places<H> {
    /// These without the slot `old`, and with `new`.
    fn with(
        &self,
        hal: &H,
        old: Option<&Shared<Slot<H>, H>>,
        new: Option<&Shared<Slot<H>, H>>,
    ) -> Result<Self, Error> {
        let place = |base| self.by_gfn.partition_point(|frames| frames.base < base);
        Ok(Self {
            by_gfn: edited(
                hal,
                &self.by_gfn,
                old.map(|old| place(old.base)),
                new.map(|new| (place(new.base), Frames::of(new))),
            )?,
            by_hva: self
                .by_hva
                .with(hal, old.map(|s| &**s), new.map(|s| &**s))?,
        })
    }
}

impl Frames {
    fn of<H: Hal>(slot: &Slot<H>) -> Self {
        Self {
            base: slot.base,
            // Both fit: see the assertions above.
            npages: slot.npages as u32,
            id: slot.id as u16,
        }
    }

    fn end(&self) -> Gfn {
        self.base.add(self.npages.into())
    }
}

/// What [`SlotSet::by_hva`] finds.
pub struct HvaHits<'a, H: Hal> {
    set: &'a SlotSet<H>,
    hits: Hits<'a>,
}

impl<H: Hal> HvaHits<'_, H> {
    /// How many elements of the index were looked at so far.
    pub fn steps(&self) -> usize {
        self.hits.steps()
    }
}

impl<'a, H: Hal> Iterator for HvaHits<'a, H> {
    type Item = &'a Shared<Slot<H>, H>;

    fn next(&mut self) -> Option<Self::Item> {
        self.set.by_id(self.hits.next()?.into())
    }
}
