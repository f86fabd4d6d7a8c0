//! The memory of a guest program, slot by slot.
use core::slice;

use waterbear_core::Error;
use waterbear_core::memslot::Region;
use waterbear_core::vm::Vm;
use waterbear_guests::Slot;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Memory, Pfn};

use crate::host::Bare;

/// The most slots of a program.
pub const SLOTS: usize = 8;

/// The memory behind a slot. It stays when the slot goes.
pub struct Backing {
    pub slot: Slot,
    first: Pfn,
}

impl Backing {
    /// Memory for a slot, zeroed.
    pub fn new(slot: Slot) -> Result<Self, Error> {
        Ok(Self {
            slot,
            first: Bare.alloc_pages((slot.size / PAGE_SIZE) as usize)?,
        })
    }

    /// Makes the slot, or changes it, at an address and with flags; of size 0 it is deleted.
    pub fn set(&self, vm: &Vm<Bare>, gpa: u64, flags: u32, size: u64) -> Result<(), Error> {
        vm.set_region(Region {
            space: 0,
            id: self.slot.id,
            flags,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: self.first.hpa().0,
        })
    }

    /// Where the owner has it.
    pub fn hva(&self) -> u64 {
        self.first.hpa().0
    }

    /// A word of it, if it has one at `offset`. The guest may run.
    pub fn word(&self, offset: u64) -> Option<*mut u32> {
        let fits = offset.is_multiple_of(4) && offset < self.slot.size;
        fits.then(|| (self.hva() + offset) as *mut u32)
    }

    /// Puts bytes into it before the guest runs.
    pub fn fill(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: pages of ours, mapped one to one.
        let start = unsafe { Bare.pages(self.first) };
        // SAFETY: as above; nobody else has them yet.
        let all = unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.slot.size as usize) };
        all[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let pages = (self.slot.size / PAGE_SIZE) as usize;
        // SAFETY: from `alloc_pages`; the VM that used them is gone.
        unsafe { Bare.free_pages(self.first, pages) }
    }
}
