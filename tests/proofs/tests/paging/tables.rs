//! Page tables made by hand.
use waterbear_core::MemoryError;
use waterbear_core::arch::{Cr0, Cr4, Efer};
use waterbear_core::paging::{EntryMemory, Registers};
use waterbear_hal::{Gpa, Width};

pub const P: u64 = 1;
pub const W: u64 = 1 << 1;
pub const U: u64 = 1 << 2;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
pub const NX: u64 = 1 << 63;

/// A paging mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Bits32,
    Pae,
    Four,
    Five,
}

impl Shape {
    pub const ALL: [Shape; 4] = [Shape::Bits32, Shape::Pae, Shape::Four, Shape::Five];

    /// The levels that are in memory.
    pub fn levels(self) -> u32 {
        match self {
            Shape::Bits32 | Shape::Pae => 2,
            Shape::Four => 4,
            Shape::Five => 5,
        }
    }

    /// The levels whose entries can map pages.
    pub fn leaves(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Shape::Bits32 | Shape::Pae => 1..=2,
            Shape::Four | Shape::Five => 1..=3,
        }
    }

    pub fn width(self) -> Width {
        match self {
            Shape::Bits32 => Width::Dword,
            _ => Width::Qword,
        }
    }

    /// log2 of the size of a page at a level.
    pub fn shift(self, level: u32) -> u32 {
        match (self, level) {
            (_, 1) => 12,
            (Shape::Bits32, _) => 22,
            (_, 2) => 21,
            _ => 30,
        }
    }

    /// An address that differs at every level.
    pub fn linear(self) -> u64 {
        match self {
            Shape::Bits32 | Shape::Pae => 0xcba9_8765,
            Shape::Four => 0x7fed_cba9_8765,
            Shape::Five => 0xfe_7fed_cba9_8765,
        }
    }

    /// Registers that choose the mode, with every protection off.
    pub fn registers(self) -> Registers {
        let mut regs = Registers {
            cr0: Cr0::PE | Cr0::PG,
            // Bits below 12 are no part of the address.
            cr3: root(self).0 | 0x18,
            ..Registers::default()
        };
        match self {
            Shape::Bits32 => regs.cr4 = Cr4::PSE,
            Shape::Pae => {
                regs.cr4 = Cr4::PAE;
                regs.cr3 = 0xdead_b000;
                regs.pdptes[(self.linear() >> 30) as usize] = root(self).0 | P;
            }
            Shape::Four | Shape::Five => {
                regs.cr4 = Cr4::PAE;
                regs.efer = Efer::LME | Efer::LMA;
                regs.cr4.set(Cr4::LA57, self == Shape::Five);
            }
        }
        regs
    }

    /// Where the entry for [`linear`](Self::linear) is at a level.
    pub fn entry(self, level: u32) -> Gpa {
        let index = match (self, level) {
            (Shape::Bits32, 1) => self.linear() >> 12 & 1023,
            (Shape::Bits32, _) => self.linear() >> 22 & 1023,
            (_, level) => self.linear() >> (12 + 9 * (level - 1)) & 511,
        };
        let size = self.width().bytes() as u64;
        Gpa(table(level).0 + index * size)
    }

    /// The first address of the page that [`Tables::chain`] maps.
    pub fn page(self) -> u64 {
        match self {
            Shape::Bits32 => 0x8000_0000,
            _ => 0x1_8000_0000,
        }
    }
}

fn table(level: u32) -> Gpa {
    Gpa(0x10_0000 + u64::from(level) * 0x1000)
}

fn root(shape: Shape) -> Gpa {
    table(shape.levels())
}

/// Entries by address; elsewhere there is no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    width: Width,
    /// The highest level first.
    pub entries: Vec<(Gpa, u64)>,
}

impl Tables {
    /// The entries that map the page for the shape's address, each with the
    /// bits `bits` of its level, the highest level first; the last one maps.
    pub fn chain(shape: Shape, bits: &[u64]) -> Self {
        let top = shape.levels();
        let leaf = top + 1 - bits.len() as u32;
        let levels = (leaf..=top).rev();
        let entry = |(level, &bits): (u32, &u64)| {
            let frame = match level {
                1 => shape.page(),
                _ if level == leaf => shape.page() | PS,
                _ => table(level - 1).0,
            };
            (shape.entry(level), frame | bits)
        };
        Self {
            width: shape.width(),
            entries: levels.zip(bits).map(entry).collect(),
        }
    }
}

impl EntryMemory for Tables {
    fn read(&mut self, gpa: Gpa, width: Width) -> Result<u64, MemoryError> {
        assert_eq!(width, self.width);
        let found = self.entries.iter().find(|entry| entry.0 == gpa);
        Ok(found.ok_or(MemoryError::Missing(gpa))?.1)
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, MemoryError> {
        assert_eq!(width, self.width);
        let found = self.entries.iter_mut().find(|entry| entry.0 == gpa);
        let entry = &mut found.ok_or(MemoryError::Missing(gpa))?.1;
        let seen = *entry;
        if seen == old {
            *entry = new;
        }
        Ok(seen)
    }
}
