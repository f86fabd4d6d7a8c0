//! What user space asks for, checked.
use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};
use waterbear_hal::{Gfn, Gpa, Hva};

use crate::Error;

use super::set::MAX_SLOTS;
use super::slot::{ADDRESS_SPACES, SlotFlags, SpaceId};

/// The most frames in one slot.
pub const MAX_PAGES: u64 = (1 << 31) - 1;

/// Addresses at and above this one are the kernel's on every host.
const USER_END: u64 = 1 << 63;

// MS-8: the VM's total of pages cannot wrap.
const _: () = assert!(
    MAX_PAGES
        .checked_mul((MAX_SLOTS * ADDRESS_SPACES) as u64)
        .is_some()
);

/// What user space asks for, as it was sent. Nothing is checked yet, and no
/// number has been cut to fewer bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The number of the address space.
    pub space: u32,
    /// The slot's name.
    pub id: u32,
    /// Bits as in [`SlotFlags`].
    pub flags: u32,
    /// Where the guest sees the memory, in bytes.
    pub guest_phys_addr: u64,
    /// How much, in bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// Where the owner has it.
    pub userspace_addr: u64,
}

/// A region that makes sense by itself.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) space: SpaceId,
    pub(super) id: u32,
    pub(super) flags: SlotFlags,
    pub(super) base: Gfn,
    /// 0 deletes the slot.
    pub(super) npages: u64,
    pub(super) hva: Hva,
}

impl Region {
    /// The region in which the KVM interface's `slot` word names the slot: its
    /// upper half is the address space.
    pub fn named(slot: u32, flags: u32, gpa: u64, size: u64, hva: u64) -> Self {
        Self {
            space: slot >> 16,
            id: slot & 0xffff,
            flags,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: hva,
        }
    }

    /// Checks everything that can be checked without the current slots (MS-8).
    /// Frames are below `gfn_end`.
    pub(super) fn check(&self, gfn_end: Gfn) -> Result<Request, Error> {
        let flags = SlotFlags::from_bits(self.flags).ok_or(Error::Invalid)?;
        let space = SpaceId::new(self.space).ok_or(Error::Invalid)?;
        // As sent: a name that is right after truncation is wrong.
        if self.id as usize >= MAX_SLOTS {
            return Err(Error::Invalid);
        }
        let in_pages = self.guest_phys_addr | self.memory_size | self.userspace_addr;
        if !in_pages.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Invalid);
        }
        let npages = self.memory_size >> PAGE_SHIFT;
        if npages > MAX_PAGES {
            return Err(Error::Invalid);
        }
        let base = Gpa(self.guest_phys_addr).gfn();
        // Neither sum wraps: frame numbers and counts have at most 52 bits. A
        // range that ends exactly at the top is legal.
        if npages > 0 && base.0 + npages > gfn_end.0 {
            return Err(Error::Invalid);
        }
        let hva_end = self.userspace_addr.checked_add(self.memory_size);
        if hva_end.is_none_or(|end| end > USER_END) {
            return Err(Error::Invalid);
        }
        Ok(Request {
            space,
            id: self.id,
            flags,
            base,
            npages,
            hva: Hva(self.userspace_addr),
        })
    }
}
