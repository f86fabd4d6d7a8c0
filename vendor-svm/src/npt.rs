//! The format of nested page-table entries.
//!
//! They are ordinary long-mode entries, walked as user accesses, so every
//! present entry has U set. Source: AMD APM, "Nested Paging" and "Page
//! Translation and Protection".
use waterbear_core::spte::{EntryFormat, FormatBits};
use waterbear_hal::Level;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXEC: u64 = 1 << 63;
/// The highest bit of a physical address that the architecture has room for.
const MAX_ADDRESS_BIT: u32 = 51;

/// What of nested paging this CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NptFeatures {
    /// The level of root tables: that of the host, 4 or 5.
    pub root_level: Level,
    /// Width of physical addresses in bits, at most 52.
    pub physical_bits: u32,
    /// Leaves of 1 GiB.
    pub large_1g: bool,
}

/// The format of this CPU's nested page-table entries.
///
/// An MMIO entry is present with a reserved address bit set. A CPU that uses
/// every address bit has none, and no MMIO entries (TDP-15).
///
/// # Errors
///
/// Says what is wrong with the features.
pub const fn entry_format(features: NptFeatures) -> Result<EntryFormat, &'static str> {
    if features.physical_bits < 32 || features.physical_bits > MAX_ADDRESS_BIT + 1 {
        return Err("the width of physical addresses is out of range");
    }
    EntryFormat::new(FormatBits {
        root_level: features.root_level,
        max_leaf: if features.large_1g {
            Level::L3
        } else {
            Level::L2
        },
        read: PRESENT,
        write: WRITE,
        exec: 0,
        no_exec: NO_EXEC,
        always: USER,
        large: LARGE,
        memory_type: 0,
        accessed: ACCESSED,
        dirty: DIRTY,
        address: (1 << features.physical_bits) - (1 << 12),
        mmio: if features.physical_bits <= MAX_ADDRESS_BIT {
            Some(PRESENT | WRITE | USER | 1 << MAX_ADDRESS_BIT)
        } else {
            None
        },
    })
}
