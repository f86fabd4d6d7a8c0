//! The format of EPT entries.
//!
//! Source: Intel SDM, "The Extended Page Table Mechanism (EPT)", and for the
//! capability bits "VPID and EPT Capabilities".
use waterbear_core::spte::{EntryFormat, FormatBits};
use waterbear_hal::Level;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXEC: u64 = 1 << 2;
/// Memory type write-back, whatever the guest's own page attributes say.
const WRITE_BACK: u64 = 6 << 3 | 1 << 6;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
/// The highest bit of a physical address that the architecture has room for.
const MAX_ADDRESS_BIT: u32 = 51;

/// What of EPT this CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptFeatures {
    /// The level of root tables: 4 or 5.
    pub root_level: Level,
    /// Width of physical addresses in bits, at most 52.
    pub physical_bits: u32,
    /// Leaves of 2 MiB.
    pub large_2m: bool,
    /// Leaves of 1 GiB.
    pub large_1g: bool,
    /// Accessed and dirty bits.
    pub accessed_dirty: bool,
}

/// The format of this CPU's EPT entries.
///
/// An MMIO entry is writable and executable but not readable, which is a
/// misconfiguration on every CPU, and has a reserved address bit set. Without
/// reserved address bits there are no MMIO entries (TDP-15).
///
/// # Errors
///
/// Says what is wrong with the features.
pub const fn entry_format(features: EptFeatures) -> Result<EntryFormat, &'static str> {
    if features.physical_bits < 32 || features.physical_bits > MAX_ADDRESS_BIT + 1 {
        return Err("the width of physical addresses is out of range");
    }
    let (accessed, dirty) = if features.accessed_dirty {
        (ACCESSED, DIRTY)
    } else {
        (0, 0)
    };
    EntryFormat::new(FormatBits {
        root_level: features.root_level,
        max_leaf: match (features.large_2m, features.large_1g) {
            (true, true) => Level::L3,
            (true, false) => Level::L2,
            (false, _) => Level::L1,
        },
        read: READ,
        write: WRITE,
        exec: EXEC,
        no_exec: 0,
        always: 0,
        large: LARGE,
        memory_type: WRITE_BACK,
        accessed,
        dirty,
        address: (1 << features.physical_bits) - (1 << 12),
        mmio: if features.physical_bits <= MAX_ADDRESS_BIT {
            Some(WRITE | EXEC | 1 << MAX_ADDRESS_BIT)
        } else {
            None
        },
    })
}
