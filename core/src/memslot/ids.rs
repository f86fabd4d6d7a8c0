//! The index by id, which is also what owns the slots.
//!
//! Two levels: pages of slots, shared between sets. An update copies one page
//! and the list of pages, so the slots that stay cost nothing, not even their
//! reference counts.
use waterbear_hal::Hal;

use crate::Error;
use crate::mem::{Heap, Shared, Vec};

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
        let mut page: Page<H> = old.map_or([const { None }; PAGE_IDS], |old| (**old).clone());
        if let Some(place) = page.get_mut(within) {
            *place = slot.cloned();
        }
        let mut page = match page.iter().all(Option::is_none) {
            true => None,
            false => Some(Shared::new(hal, page)?),
        };
        let len = self.pages.len().max(at + 1);
        let mut pages = Vec::new_in(Heap(hal.clone()));
        pages.try_reserve_exact(len)?;
        for i in 0..len {
            // Within the capacity just reserved.
            pages.push(match i == at {
                true => page.take(),
                false => self.pages.get(i).cloned().flatten(),
            });
        }
        let last = pages.iter().rposition(Option::is_some);
        pages.truncate(last.map_or(0, |last| last + 1));
        Ok(Self { pages })
    }
}
