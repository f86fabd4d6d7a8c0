//! Addresses and frame numbers, one type per kind.
//!
//! A guest-physical address is not a host-virtual one, and the compiler knows.
//! There is no `From` between kinds: each conversion has a name that says what
//! it does, and those that need a table (GFN to HVA) live with the table.
use crate::memory::ENTRY_BITS;

/// log2 of the size of the smallest page, in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Size of the smallest page, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

newtype! {
    /// A guest-physical address, in bytes.
    Gpa
}
newtype! {
    /// A guest frame number: a guest-physical address in units of 4 KiB.
    Gfn
}
newtype! {
    /// An address in the user space of the process that owns the VM, in bytes.
    Hva
}
newtype! {
    /// A host-physical address, in bytes.
    Hpa
}
newtype! {
    /// A host page frame number: a host-physical address in units of 4 KiB.
    Pfn
}

impl Gpa {
    /// The frame that contains this address.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// The address of the frame's first byte.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// This frame rounded down to the first frame of a mapping at `level`.
    pub const fn align_down(self, level: Level) -> Gfn {
        Gfn(self.0 & !(level.pages() - 1))
    }

    /// The index of this frame's entry in a table at `level`.
    pub const fn index(self, level: Level) -> usize {
        ((self.0 >> level.gfn_shift()) & ((1 << ENTRY_BITS) - 1)) as usize
    }

    /// The frame `pages` further on. The caller keeps the sum below 2^52.
    pub const fn add(self, pages: u64) -> Gfn {
        Gfn(self.0 + pages)
    }
}

impl Hva {
    /// The address `pages` pages further on, or `None` when it would wrap.
    pub const fn checked_add_pages(self, pages: u64) -> Option<Hva> {
        match pages.checked_mul(PAGE_SIZE) {
            Some(bytes) => match self.0.checked_add(bytes) {
                Some(sum) => Some(Hva(sum)),
                None => None,
            },
            None => None,
        }
    }
}

impl Pfn {
    /// The address of the frame's first byte.
    pub const fn hpa(self) -> Hpa {
        Hpa(self.0 << PAGE_SHIFT)
    }

    /// The frame `pages` further on.
    pub const fn add(self, pages: u64) -> Pfn {
        Pfn(self.0 + pages)
    }

    /// This frame rounded down to the first frame of a mapping at `level`.
    pub const fn align_down(self, level: Level) -> Pfn {
        Pfn(self.0 & !(level.pages() - 1))
    }
}

/// A level of a page-table tree, counted from the leaves.
///
/// An entry of a table at `L1` maps 4 KiB, at `L2` 2 MiB, at `L3` 1 GiB. Under
/// the model checker tables are tiny and the sizes shrink with them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Entries map 4 KiB.
    L1 = 1,
    /// Entries map 2 MiB or link to a table at `L1`.
    L2 = 2,
    /// Entries map 1 GiB or link to a table at `L2`.
    L3 = 3,
    /// Entries link to a table at `L3`.
    L4 = 4,
    /// Entries link to a table at `L4`.
    L5 = 5,
}

impl Level {
    /// Levels that can hold a leaf, smallest first.
    pub const LEAVES: [Level; 3] = [Level::L1, Level::L2, Level::L3];

    /// log2 of the number of 4 KiB frames that one entry spans.
    pub const fn gfn_shift(self) -> u32 {
        (self as u32 - 1) * ENTRY_BITS
    }

    /// The number of 4 KiB frames that one entry spans.
    pub const fn pages(self) -> u64 {
        1 << self.gfn_shift()
    }

    /// The level of the tables that entries of this level link to.
    pub const fn below(self) -> Option<Level> {
        Level::numbered((self as usize).wrapping_sub(1))
    }

    /// The level whose entries link to tables of this level.
    pub const fn above(self) -> Option<Level> {
        Level::numbered(self as usize + 1)
    }

    /// The level of that number. A table, where a match would be a chain of
    /// comparisons.
    const fn numbered(number: usize) -> Option<Level> {
        const LEVELS: [Level; 5] = [Level::L1, Level::L2, Level::L3, Level::L4, Level::L5];
        let index = number.wrapping_sub(1);
        if index < LEVELS.len() {
            Some(LEVELS[index])
        } else {
            None
        }
    }
}
