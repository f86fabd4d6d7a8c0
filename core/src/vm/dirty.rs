//! The dirty log, as user space reads it.
//!
//! Bits are taken out of a bitmap first and their pages are protected
//! afterwards: a write in between is in memory when user space reads the page,
//! and a write after the flush sets the bit again (TDP-13).
use waterbear_hal::{Gfn, Hal};

use super::Vm;
use crate::Error;
use crate::memslot::dirty::WORD_BITS;
use crate::memslot::{Slot, SpaceId};
use crate::tdp::DirtyTracking;

impl<H: Hal> Vm<H> {
    /// Reads the log of slot `id` into `log`, one bit per page, in words of
    /// 64; the rest of `log` is left alone. With `clear` the log starts anew,
    /// and when this returns every later write is logged; without, it keeps
    /// its bits until [`clear_dirty_log`](Vm::clear_dirty_log) takes them. May
    /// sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such slot or it keeps no log;
    /// [`Error::Invalid`] when `log` is too short. Nothing has changed.
    pub fn read_dirty_log(
        &self,
        space: SpaceId,
        id: u32,
        log: &mut [u64],
        clear: bool,
    ) -> Result<(), Error> {
        let _slots_lock = self.memslots.lock();
        let slots = self.memslots.read();
        let slot = slots.set(space).by_id(id).ok_or(Error::NotFound)?;
        let bitmap = slot.dirty.as_ref().ok_or(Error::NotFound)?;
        let log = log.get_mut(..bitmap.len()).ok_or(Error::Invalid)?;
        self.mmu
            .harvest(&self.vcpus, &**slot, space, slot.base..slot.end());
        if !clear {
            for (index, word) in log.iter_mut().enumerate() {
                *word = bitmap.peek(index);
            }
            return Ok(());
        }
        let mut from = 0;
        let mut take = || {
            loop {
                // A look first: most words of most logs are empty.
                let at = bitmap.next_marked(from);
                log.get_mut(from..at)?.fill(0);
                let word = log.get_mut(at)?;
                *word = bitmap.take(at);
                from = at + 1;
                if *word != 0 {
                    return Some((at, *word));
                }
            }
        };
        match self.mmu.dirty {
            DirtyTracking::WriteProtect => self.protect(slot, take),
            // Harvesting has made every page report its next write.
            DirtyTracking::DirtyBit => while take().is_some() {},
        }
        Ok(())
    }

    /// Takes bits out of the log of slot `id`: those set in `mask`, whose bit 0
    /// is page `first` of the slot, for `npages` pages. When this returns every
    /// later write to one of those pages is logged. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such slot or it keeps no log;
    /// [`Error::Invalid`] when `first` is not a multiple of 64, or `npages` is
    /// not and the range does not end with the slot, or the range reaches
    /// beyond the slot, or `mask` is too short. Nothing has changed.
    pub fn clear_dirty_log(
        &self,
        space: SpaceId,
        id: u32,
        first: u64,
        npages: u64,
        mask: &[u64],
    ) -> Result<(), Error> {
        let _slots_lock = self.memslots.lock();
        let slots = self.memslots.read();
        let slot = slots.set(space).by_id(id).ok_or(Error::NotFound)?;
        let bitmap = slot.dirty.as_ref().ok_or(Error::NotFound)?;
        let end = first.checked_add(npages).ok_or(Error::Invalid)?;
        let ends_well = npages.is_multiple_of(WORD_BITS) || end == slot.npages;
        if !first.is_multiple_of(WORD_BITS) || !ends_well || end > slot.npages {
            return Err(Error::Invalid);
        }
        let len = usize::try_from(npages.div_ceil(WORD_BITS)).map_err(|_| Error::Invalid)?;
        let mask = mask.get(..len).ok_or(Error::Invalid)?;
        let base = usize::try_from(first / WORD_BITS).map_err(|_| Error::Invalid)?;
        let mut words = mask.iter().enumerate();
        self.protect(slot, || {
            words.by_ref().find_map(|(index, &word)| {
                let taken = bitmap.clear(base + index, word);
                (taken != 0).then_some((base + index, taken))
            })
        });
        Ok(())
    }

    /// Makes the pages that `words` names, as (index of the word in the
    /// bitmap, bits), report their next write.
    fn protect(&self, slot: &Slot<H>, mut words: impl FnMut() -> Option<(usize, u64)>) {
        // Dirty bits that are found now belong to writes that came before, and
        // whose page user space has yet to read: `()`.
        self.mmu.clean_words(&self.vcpus, &(), slot.space, || {
            words().map(|(index, word)| {
                let gfn = Gfn(slot.base.0 + index as u64 * WORD_BITS);
                (gfn, word)
            })
        });
    }
}
