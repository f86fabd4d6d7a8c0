//! What the bits of an entry mean to hardware.

use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::{Level, Pfn};

use super::Access;

/// The format of second-level page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Intel's extended page tables.
    Ept {
        /// Whether accessed and dirty flags are enabled in the EPTP.
        ad: bool,
        /// Whether the CPU supports execute-only translations.
        exec_only: bool,
    },
    /// AMD's nested page tables, walked with EFER.NXE on. They always have
    /// accessed and dirty bits.
    Npt,
}

/// What hardware makes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing is mapped.
    NotPresent,
    /// The entry breaks a rule: an EPT misconfiguration, or a reserved bit in
    /// a nested page table.
    Broken,
    /// A link to a table one level below.
    Table {
        /// The table's frame.
        pfn: Pfn,
        /// What the link allows.
        allows: Access,
    },
    /// A mapping.
    Leaf {
        /// The first frame that is mapped.
        pfn: Pfn,
        /// What the mapping allows.
        allows: Access,
        /// Whether the dirty bit is set, or there is none to set.
        dirty: bool,
    },
}

/// What to put into an entry that a test makes by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawLeaf {
    /// The first frame.
    pub pfn: Pfn,
    /// The level of the table that the entry stands in.
    pub level: Level,
    /// What is allowed.
    pub allows: Access,
}

const fn bit(n: u32) -> u64 {
    1 << n
}

/// The bits from `low` up to, not including, `end`.
const fn bits(low: u32, end: u32) -> u64 {
    if low >= end {
        0
    } else {
        (u64::MAX >> (64 - (end - low))) << low
    }
}

/// The page-size bit, in both formats.
const LARGE: u64 = bit(7);
/// The field that holds a frame number.
const ADDRESS: u64 = bits(PAGE_SHIFT, 52);

impl Format {
    /// The accessed bit; 0 when there is none.
    pub const fn accessed(self) -> u64 {
        match self {
            Format::Ept { ad: true, .. } => bit(8),
            Format::Ept { ad: false, .. } => 0,
            Format::Npt => bit(5),
        }
    }

    /// The dirty bit; 0 when there is none.
    pub const fn dirty(self) -> u64 {
        match self {
            Format::Ept { ad: true, .. } => bit(9),
            Format::Ept { ad: false, .. } => 0,
            Format::Npt => bit(6),
        }
    }

    /// What `entry`, found in a table at `level`, means on a CPU with physical
    /// addresses of `maxphyaddr` bits.
    pub fn decode(self, entry: u64, level: Level, maxphyaddr: u32) -> Decoded {
        let present = match self {
            Format::Ept { .. } => entry & 0b111 != 0,
            Format::Npt => entry & 1 != 0,
        };
        if !present {
            return Decoded::NotPresent;
        }
        let leaf = match level {
            Level::L1 => true,
            Level::L2 | Level::L3 => entry & LARGE != 0,
            Level::L4 | Level::L5 => false,
        };
        let reserved = bits(maxphyaddr, 52) | self.reserved(level, leaf);
        if entry & reserved != 0 || self.is_forbidden(entry, leaf) {
            return Decoded::Broken;
        }
        let address = entry & ADDRESS;
        let allows = self.allows(entry);
        if !leaf {
            return Decoded::Table {
                pfn: Pfn(address >> PAGE_SHIFT),
                allows,
            };
        }
        Decoded::Leaf {
            // Takes out the PAT bit of large pages.
            pfn: Pfn(address >> PAGE_SHIFT).align_down(level),
            allows,
            dirty: entry & self.dirty() == self.dirty(),
        }
    }

    /// Bits that must be zero in a present entry, besides those beyond the
    /// width of physical addresses.
    fn reserved(self, level: Level, leaf: bool) -> u64 {
        let below_page = PAGE_SHIFT + level.gfn_shift();
        match self {
            // SDM, "Format of an EPT Page-Directory-Pointer-Table Entry" and
            // its neighbours.
            Format::Ept { .. } if leaf => bits(PAGE_SHIFT, below_page),
            Format::Ept { .. } => bits(3, 8),
            // APM, "Long-Mode Page Translation". Bit 12 of a large page is the
            // PAT bit. (Where a table has two entries, as under the model
            // checker, bit 12 is all there is, and it is not reserved.)
            Format::Npt if leaf => bits(PAGE_SHIFT + 1, below_page),
            Format::Npt => match level {
                Level::L1 | Level::L2 => 0,
                Level::L3 => bit(8),
                Level::L4 | Level::L5 => bits(7, 9),
            },
        }
    }

    /// Combinations of bits that are not allowed.
    fn is_forbidden(self, entry: u64, leaf: bool) -> bool {
        match self {
            Format::Ept { exec_only, .. } => {
                let allows = self.allows(entry);
                let memory_type = entry >> 3 & 0b111;
                !allows.read && allows.write
                    || !allows.read && allows.exec && !exec_only
                    || leaf && matches!(memory_type, 2 | 3 | 7)
            }
            Format::Npt => false,
        }
    }

    /// What one entry allows. Nested page tables are walked with user accesses,
    /// so there a supervisor entry allows nothing.
    fn allows(self, entry: u64) -> Access {
        let has = |n| entry & bit(n) != 0;
        match self {
            Format::Ept { .. } => Access::new(has(0), has(1), has(2)),
            Format::Npt => Access::new(has(2), has(2) && has(1), has(2) && !has(63)),
        }
    }

    /// Builds a leaf, write-back and neither accessed nor dirty: for tests of
    /// the hardware itself. The core has its own way to make entries.
    pub fn leaf(self, leaf: RawLeaf) -> u64 {
        let large = if leaf.level == Level::L1 { 0 } else { LARGE };
        let memory_type = match self {
            Format::Ept { .. } => 6 << 3,
            Format::Npt => 0,
        };
        leaf.pfn.hpa().0 | self.rights(leaf.allows) | large | memory_type
    }

    /// Builds a link that allows everything.
    pub fn link(self, pfn: Pfn) -> u64 {
        pfn.hpa().0 | self.rights(Access::ALL)
    }

    fn rights(self, allows: Access) -> u64 {
        let on = |yes: bool, n: u32| u64::from(yes) << n;
        match self {
            Format::Ept { .. } => on(allows.read, 0) | on(allows.write, 1) | on(allows.exec, 2),
            Format::Npt => 1 | on(allows.write, 1) | on(allows.read, 2) | on(!allows.exec, 63),
        }
    }
}
