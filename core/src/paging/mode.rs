//! How tables are laid out in each paging mode.
//!
//! Source: Intel SDM volume 3, "32-Bit Paging", "PAE Paging", "4-Level Paging
//! and 5-Level Paging"; AMD APM volume 2, "Legacy-Mode Page Translation" and
//! "Long-Mode Page Translation".
use core::ops::Range;

use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};
use waterbear_hal::{Gpa, Width};

use super::Registers;
use crate::arch::{Cr0, Cr4, Efer};

/// The entry maps or links something.
pub(super) const PRESENT: u64 = 1 << 0;
/// What is below may be written.
pub(super) const WRITE: u64 = 1 << 1;
/// What is below is for the user.
pub(super) const USER: u64 = 1 << 2;
/// The entry was used.
pub(super) const ACCESSED: u64 = 1 << 5;
/// The page was written.
pub(super) const DIRTY: u64 = 1 << 6;
/// The entry maps a page although it is above level 1.
pub(super) const LARGE: u64 = 1 << 7;
/// In a leaf: the translation is global.
pub(super) const GLOBAL: u64 = 1 << 8;
/// What is below is not for fetching.
pub(super) const NO_EXECUTE: u64 = 1 << 63;

/// The bits of an entry that can be a frame's.
pub(super) const FRAME: u64 = bits(PAGE_SHIFT..52);
/// In 32-bit paging a page of 4 MiB has the address's bits from 32 on at these,
/// as many as there are.
const PSE_36: Range<u32> = 13..21;

/// The bits below number `bit`, at most 63.
const fn below(bit: u32) -> u64 {
    1_u64.wrapping_shl(bit).wrapping_sub(1)
}

/// The bits of a range.
pub(super) const fn bits(range: Range<u32>) -> u64 {
    below(range.end) & !below(range.start)
}

/// The tables of a paging mode. Level 1 has the smallest pages, as in
/// [`Level`](waterbear_hal::Level); levels of a guest's have other sizes.
pub(super) struct Layout {
    /// Of an entry.
    pub(super) width: Width,
    /// The level of the tables where the walk begins.
    pub(super) top: u32,
    /// log2 of the entries of a table.
    index_bits: u32,
    /// The highest level whose entries can map a page.
    large: u32,
    /// Bits that are reserved in every entry.
    reserved: u64,
    /// And in entries above level 2 that link to a table.
    link_reserved: u64,
    /// The width of physical addresses.
    physical_bits: u32,
    /// The bits of an entry that are a frame's.
    frame: u64,
}

impl Layout {
    /// The layout that the registers choose, unless paging is off.
    pub(super) fn of(regs: &Registers) -> Option<Self> {
        if !regs.cr0.contains(Cr0::PG) {
            return None;
        }
        let cpu = &regs.cpu;
        let physical_bits = u32::from(cpu.physical_bits).clamp(32, 52);
        let mut layout = Self {
            width: Width::Qword,
            top: 2,
            index_bits: 9,
            large: 2,
            reserved: bits(physical_bits..63),
            link_reserved: 0,
            physical_bits,
            frame: FRAME & below(physical_bits),
        };
        if regs.efer.contains(Efer::LMA) {
            layout.top = 4 + u32::from(regs.cr4.contains(Cr4::LA57));
            layout.large += u32::from(cpu.pages_1g);
            layout.reserved = bits(physical_bits..52);
            if cpu.link_global_reserved {
                layout.link_reserved = GLOBAL;
            }
        } else if !regs.cr4.contains(Cr4::PAE) {
            layout.width = Width::Dword;
            layout.index_bits = 10;
            layout.large = 1 + u32::from(regs.cr4.contains(Cr4::PSE));
            layout.reserved = 0;
            layout.frame = FRAME & below(32);
        }
        // Entries of four bytes do not have this bit.
        if !regs.efer.contains(Efer::NXE) {
            layout.reserved |= NO_EXECUTE;
        }
        Some(layout)
    }

    /// The part of a linear address that is translated.
    pub(super) fn linear(&self, linear: u64) -> u64 {
        match self.top {
            // Linear addresses have 32 bits outside long mode.
            ..=2 => linear & below(32),
            _ => linear,
        }
    }

    /// Where the table is that the walk for `linear` begins with. `None` when
    /// the register that says so in PAE paging has none.
    pub(super) fn root(&self, regs: &Registers, linear: u64) -> Option<Gpa> {
        let entry = match (self.top, self.width) {
            (2, Width::Qword) => {
                let index = usize::try_from(linear >> 30 & 3).ok()?;
                *regs.pdptes.get(index).filter(|&e| e & PRESENT != 0)?
            }
            _ => regs.cr3,
        };
        Some(self.table(entry))
    }

    /// The table that an entry links to, or CR3.
    pub(super) fn table(&self, entry: u64) -> Gpa {
        Gpa(entry & self.frame)
    }

    /// Where the entry for `linear` is in a table.
    pub(super) fn entry(&self, table: Gpa, level: u32, linear: u64) -> Gpa {
        // The index is as wide as entries of this width fill a page, which is where a table begins
        // and ends.
        let bytes = self.width.bytes() as u64;
        let index = (linear >> self.shift(level)).wrapping_mul(bytes);
        Gpa(table.0 | index & (PAGE_SIZE - bytes))
    }

    /// log2 of the bytes that an entry spans.
    pub(super) fn shift(&self, level: u32) -> u32 {
        PAGE_SHIFT + level.saturating_sub(1) * self.index_bits
    }

    /// Whether a present entry maps a page.
    pub(super) fn is_leaf(&self, level: u32, entry: u64) -> bool {
        level <= 1 || level <= self.large && entry & LARGE != 0
    }

    /// The bits that have to be 0 in a present entry that maps a page, or links to a table.
    pub(super) fn reserved(&self, level: u32, leaf: bool) -> u64 {
        let more = if leaf && level > 1 {
            let first = match self.width {
                Width::Qword => 13,
                // The address's bits that there are come first; bit 21 is reserved.
                _ => PSE_36.start + self.physical_bits.min(40) - 32,
            };
            bits(first..self.shift(level))
        } else if leaf || level <= 2 || self.width == Width::Dword {
            // Without pages of 4 MiB bit 7 is ignored.
            0
        } else if level > self.large {
            LARGE | self.link_reserved
        } else {
            self.link_reserved
        };
        self.reserved | more
    }

    /// The address of `linear`'s byte in the page that a leaf maps.
    pub(super) fn byte(&self, level: u32, entry: u64, linear: u64) -> Gpa {
        let offset = below(self.shift(level));
        let mut page = self.table(entry).0 & !offset;
        if self.width == Width::Dword && level > 1 {
            page |= (entry & bits(PSE_36)) >> PSE_36.start << 32;
        }
        Gpa(page | linear & offset)
    }
}
