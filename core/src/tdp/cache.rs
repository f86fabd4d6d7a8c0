//! Tables kept ready, because nothing is allocated under `mmu_lock` (TDP-16).
use waterbear_hal::Hal;

use super::table::FreshTable;
use crate::Error;

/// The most tables that one fault can need: every level below the root.
const CAPACITY: usize = 4;

/// A vCPU's stock of empty tables.
pub struct TableCache<H: Hal> {
    tables: [Option<FreshTable<H>>; CAPACITY],
}

impl<H: Hal> TableCache<H> {
    /// An empty cache.
    pub const fn new() -> Self {
        Self {
            tables: [const { None }; CAPACITY],
        }
    }

    /// Fills the cache. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; what was there stays.
    pub fn top_up(&mut self, hal: &H) -> Result<(), Error> {
        for place in &mut self.tables {
            if place.is_none() {
                *place = Some(FreshTable::new(hal)?);
            }
        }
        Ok(())
    }

    /// Takes a table out.
    pub(super) fn take(&mut self) -> Option<FreshTable<H>> {
        self.tables.iter_mut().find_map(Option::take)
    }

    /// Puts back a table that was not used; it is empty.
    pub(super) fn put(&mut self, table: FreshTable<H>) {
        if let Some(place) = self.tables.iter_mut().find(|place| place.is_none()) {
            *place = Some(table);
        }
    }
}

impl<H: Hal> Default for TableCache<H> {
    fn default() -> Self {
        Self::new()
    }
}
