//! The model's dirty log.
use waterbear_core::Error;
use waterbear_core::tdp::DirtyTracking;

use crate::model::{Dirty, Model};

impl Model {
    /// Compares what was read from the log with what must be in it, exactly;
    /// only pages that are `Perhaps` dirty may be there or not.
    pub fn read_log(&mut self, space: u32, id: u32, words: &[u64], clear: bool) {
        let slot = self.slot(space, id).expect("the log was read");
        let dirty = slot.dirty.as_mut().expect("the log was read");
        for (index, &word) in words.iter().enumerate() {
            for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
                let page = index as u64 * 64 + bit;
                assert!(
                    dirty.contains_key(&page),
                    "page {page:#x} of slot {id} is in the log and was not written"
                );
            }
        }
        dirty.retain(|&page, how| {
            let logged = words[(page / 64) as usize] >> (page % 64) & 1 != 0;
            assert!(
                logged || *how == Dirty::Perhaps,
                "page {page:#x} of slot {id} was written and is not in the log"
            );
            // Reading has brought hardware's bits into the log.
            *how = Dirty::Marked;
            logged && !clear
        });
    }

    /// What clearing comes to; it is carried out if it succeeds. Bit i of
    /// `mask` is for page `first + i`, and for each 64th page after it.
    pub fn clear_log(
        &mut self,
        space: u32,
        id: u32,
        first: u64,
        npages: u64,
        mask: u64,
    ) -> Result<(), Error> {
        let harvests = self.dirty == DirtyTracking::DirtyBit;
        let slot = self.slot(space, id).ok_or(Error::NotFound)?;
        let all = slot.npages;
        let dirty = slot.dirty.as_mut().ok_or(Error::NotFound)?;
        let end = first + npages;
        let whole = npages.is_multiple_of(64) || end == all;
        if !first.is_multiple_of(64) || !whole || end > all {
            return Err(Error::Invalid);
        }
        dirty.retain(|&page, how| {
            if page < first || page >= end || mask >> (page % 64) & 1 == 0 {
                return true;
            }
            if harvests && *how != Dirty::Marked {
                *how = Dirty::Perhaps;
                return true;
            }
            false
        });
        Ok(())
    }
}
