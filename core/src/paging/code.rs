//! Where code in 64-bit mode is, when all entries of the walk are as most are: used before, and
//! without anything that has to be reported.
//!
//! The walk changes nothing. Whatever is unusual is left to [`translate`](super::translate), which
//! knows every mode and every fault.
use waterbear_hal::Gpa;
use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};

use super::mode::{ACCESSED, FRAME, GLOBAL, LARGE, NO_EXECUTE, PRESENT, USER, bits};
use crate::arch::{Cr4, Efer};

/// What decides where code is.
#[derive(Clone, Copy, Debug)]
pub struct CodeWalk {
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// The width of physical addresses (MAXPHYADDR), 32 to 52.
    pub physical_bits: u32,
    /// The code runs at privilege level 3.
    pub user: bool,
}

impl CodeWalk {
    /// Where the code at `linear` is. `read` gives the entry at an address. `None` where `read`
    /// says so, and wherever it takes [`translate`](super::translate) to tell; outside 64-bit mode
    /// always.
    #[inline(always)]
    pub fn find(&self, linear: u64, mut read: impl FnMut(Gpa) -> Option<u64>) -> Option<Gpa> {
        const INDEX_BITS: u32 = 9;
        const ENTRIES: u64 = PAGE_SIZE - 8;
        /// The largest pages are of 1 GiB.
        const LARGEST: u32 = PAGE_SHIFT + 2 * INDEX_BITS;
        const USED: u64 = PRESENT | ACCESSED;

        if !self.efer.contains(Efer::LMA) {
            return None;
        }
        // Where the bit of NX is not switched on it is reserved: it is refused either way.
        let refused = NO_EXECUTE | bits(self.physical_bits.clamp(32, 52)..52);
        let la57 = u32::from(self.cr4.contains(Cr4::LA57));
        let mut shift = PAGE_SHIFT + (3 + la57) * INDEX_BITS;
        let mut table = self.cr3 & FRAME;
        let mut all = USER;
        loop {
            let entry = read(Gpa(table | linear >> (shift - 3) & ENTRIES))?;
            if entry & (USED | refused) != USED {
                return None;
            }
            all &= entry;
            if shift == PAGE_SHIFT || entry & LARGE != 0 {
                let offset = (1 << shift) - 1;
                let for_user = all != 0;
                let reached = if self.user {
                    for_user
                } else {
                    !for_user || !self.cr4.contains(Cr4::SMEP)
                };
                // Bit 12 of a large page's entry is not a frame's; those above are reserved.
                let reserved = entry & FRAME & offset & !PAGE_SIZE;
                if shift > LARGEST || reserved != 0 || !reached {
                    return None;
                }
                return Some(Gpa(entry & FRAME & !offset | linear & offset));
            }
            // Reserved in links on some CPUs.
            if entry & GLOBAL != 0 {
                return None;
            }
            table = entry & FRAME;
            shift -= INDEX_BITS;
        }
    }
}
