//! The index by id, which is also what owns the slots.
//!
//! Two levels: pages of slots, shared between sets. An update copies one page
//! and the list of pages, so the slots that stay cost nothing, not even their
//! reference counts.
use waterbear_hal::Hal;

use crate::Error;
use crate::mem::{Heap, Shared, Vec, push, room};

use super::slot::Slot;

/// How many ids share a page.
const PAGE_IDS: usize = 64;

type Page<H> = [Option<Shared<Slot<H>, H>>; PAGE_IDS];

/// The slots of a set, by id.
pub(super) struct IdIndex<H: Hal> {
    /// Up to the last page with a slot; pages without one are `None`.
    pages: Vec<Option<Shared<Page<H>, H>>, H>,
}

impl<H: Hal> IdIndex<H> {
    /// An index of nothing. Does not allocate.
    pub(super) fn new(hal: &H) -> Self {
        Self {
            pages: Vec::new_in(Heap(hal.clone())),
        }
    }

    /// The slot of that name. Constant time.
    pub(super) fn get(&self, id: u32) -> Option<&Shared<Slot<H>, H>> {
        let id = id as usize;
        let page = self.pages.get(id / PAGE_IDS)?.as_ref()?;
        page.get(id % PAGE_IDS)?.as_ref()
    }

    /// The index with `slot`, or nothing, at `id`. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub(super) fn with(
        &self,
        hal: &H,
        id: u32,
        slot: Option<&Shared<Slot<H>, H>>,
    ) -> Result<Self, Error> {
        let (at, within) = (id as usize / PAGE_IDS, id as usize % PAGE_IDS);
        let old = self.pages.get(at).and_then(Option::as_ref);
        let other = |i: usize| match i == within {
            true => None,
            false => old?.get(i)?.as_ref(),
        };
        let mut page = None;
        if slot.is_some() || (0..PAGE_IDS).any(|i| other(i).is_some()) {
            let slot = |i| if i == within { slot } else { other(i) };
            page = Some(Shared::from_fn(hal, |i| slot(i).cloned())?);
        }
        let len = self.pages.len().max(at + 1);
        let mut pages = room(hal, len)?;
        for i in 0..len {
            let page = match i == at {
                true => page.take(),
                false => self.pages.get(i).cloned().flatten(),
            };
            push(&mut pages, page);
        }
        while let Some(None) = pages.last() {
            pages.pop();
        }
        Ok(Self { pages })
    }
}
