//! The dirty log, as the interface has it.
use waterbear_hal::Hal;
use waterbear_hal::sync::atomic::Ordering;

use super::VmFile;
use super::bytes::{Caller, Structure, field};
use crate::Error;
use crate::mem::{bytes_of, bytes_of_mut, zeros};
use crate::memslot::dirty::WORD_BITS;
use crate::memslot::{MAX_SLOTS, SpaceId};

/// A slot as the interface names it.
struct Name {
    space: SpaceId,
    id: u32,
}

impl Name {
    /// The upper half of the word is the address space.
    fn new(slot: u32) -> Result<Self, Error> {
        let space = SpaceId::new(slot >> 16).ok_or(Error::Invalid)?;
        let id = slot & 0xffff;
        if id as usize >= MAX_SLOTS {
            return Err(Error::Invalid);
        }
        Ok(Self { space, id })
    }
}

impl<H: Hal> VmFile<H> {
    #[inline(never)]
    pub(super) fn get_dirty_log(
        &self,
        caller: &impl Caller,
        sent: &Structure,
    ) -> Result<(), Error> {
        let name = Name::new(field!(sent, kvm_dirty_log.slot: u32))?;
        let bitmap = field!(sent, kvm_dirty_log.__bindgen_anon_1: u64);
        let len = self.log_len(&name)?;
        let mut log = zeros(&self.hal, len)?;
        let clear = !self.manual_log.load(Ordering::Relaxed);
        // The slot may have been replaced by a longer one meanwhile: then this
        // is refused.
        self.vm()
            .read_dirty_log(name.space, name.id, &mut log, clear)?;
        let delivered = caller.copy_out(bitmap, bytes_of(&log));
        if delivered.is_err() && clear {
            self.put_back(&name, &log);
        }
        delivered
    }

    pub(super) fn clear_dirty_log(
        &self,
        caller: &impl Caller,
        sent: &Structure,
    ) -> Result<(), Error> {
        let name = Name::new(field!(sent, kvm_clear_dirty_log.slot: u32))?;
        let npages = u64::from(field!(sent, kvm_clear_dirty_log.num_pages: u32));
        let first = field!(sent, kvm_clear_dirty_log.first_page: u64);
        let bitmap = field!(sent, kvm_clear_dirty_log.__bindgen_anon_1: u64);
        let len = usize::try_from(npages.div_ceil(WORD_BITS)).map_err(|_| Error::Invalid)?;
        // Before memory is taken for it.
        if len > self.log_len(&name)? {
            return Err(Error::Invalid);
        }
        let mut mask = zeros(&self.hal, len)?;
        caller.copy_in(bitmap, bytes_of_mut(&mut mask))?;
        self.vm()
            .clear_dirty_log(name.space, name.id, first, npages, &mask)
    }

    /// The number of words in the log of a slot, now.
    fn log_len(&self, name: &Name) -> Result<usize, Error> {
        let slots = self.vm().memslots().read();
        let slot = slots.set(name.space).by_id(name.id);
        let dirty = slot.and_then(|slot| slot.dirty.as_ref());
        Ok(dirty.ok_or(Error::NotFound)?.len())
    }

    /// Gives bits back that were taken and not delivered. They may come to
    /// another slot of that name, and then say too much, which is allowed.
    fn put_back(&self, name: &Name, log: &[u64]) {
        let slots = self.vm().memslots().read();
        let slot = slots.set(name.space).by_id(name.id);
        if let Some(dirty) = slot.and_then(|slot| slot.dirty.as_ref()) {
            for (index, word) in log.iter().enumerate() {
                dirty.put_back(index, *word);
            }
        }
    }
}
