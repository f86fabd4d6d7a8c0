//! What a request for a slot comes to.
use std::collections::{BTreeMap, HashMap};

use waterbear_core::Error;
use waterbear_core::memslot::{MAX_PAGES, MAX_SLOTS, Region};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_proofs::HVA;

use crate::model::{Dirty, Model, Slot, Updated};

impl Model {
    /// What the request for a slot comes to; it is carried out unless `dry`.
    pub fn set_region(&mut self, r: &Region, dry: bool) -> Result<Updated, Error> {
        let aligned = [r.guest_phys_addr, r.memory_size, r.userspace_addr]
            .iter()
            .all(|n| n.is_multiple_of(PAGE_SIZE));
        let (gpa, size) = (u128::from(r.guest_phys_addr), u128::from(r.memory_size));
        let npages = r.memory_size / PAGE_SIZE;
        let user_end = u128::from(r.userspace_addr) + size;
        if r.flags & !3 != 0
            || r.space > 1
            || r.id as usize >= MAX_SLOTS
            || !aligned
            || npages > MAX_PAGES
            || (npages > 0 && gpa + size > u128::from(self.end) * u128::from(PAGE_SIZE))
            || user_end > 1 << 63
        {
            return Err(Error::Invalid);
        }
        let base = r.guest_phys_addr / PAGE_SIZE;
        let hva = i128::from(r.userspace_addr / PAGE_SIZE) - i128::from(HVA.0 / PAGE_SIZE);
        let slots = &mut self.slots[r.space as usize];
        let overlaps = slots
            .iter()
            .any(|(&id, s)| id != r.id && s.base < base + npages && base < s.frames().end);
        let logs = r.flags & 1 != 0;
        let log = |old: Option<BTreeMap<u64, Dirty>>| logs.then(|| old.unwrap_or_default());
        let Some(old) = slots.get_mut(&r.id) else {
            if npages == 0 {
                return Err(Error::Invalid);
            }
            if overlaps {
                return Err(Error::Exists);
            }
            let slot = Slot {
                base,
                npages,
                hva,
                flags: r.flags,
                dirty: log(None),
                tracked: HashMap::new(),
            };
            if !dry {
                slots.insert(r.id, slot);
            }
            return Ok(Updated::Created);
        };
        let frames = old.frames();
        if npages == 0 {
            if !dry {
                slots.remove(&r.id);
            }
            return Ok(Updated::Deleted(frames));
        }
        if old.hva != hva || old.npages != npages || (old.flags ^ r.flags) & 2 != 0 {
            return Err(Error::Invalid);
        }
        let same = old.base == base && old.flags == r.flags;
        if !same && overlaps {
            return Err(Error::Exists);
        }
        let updated = if same {
            Updated::Nothing
        } else if old.base != base {
            Updated::Moved(frames)
        } else {
            Updated::Flags { log_stops: !logs }
        };
        if !dry && !same {
            if old.base != base {
                old.tracked.clear();
            }
            (old.base, old.flags) = (base, r.flags);
            old.dirty = log(old.dirty.take());
        }
        Ok(updated)
    }
}
