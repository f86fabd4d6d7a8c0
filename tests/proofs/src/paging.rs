//! The kinds of second-level paging that the proofs run on: the core's format
//! and the simulated hardware's, side by side.
use waterbear_core::spte::EntryFormat;
use waterbear_hal::Level;
use waterbear_mock::hw::{Format, Walker};
use waterbear_svm::npt::{self, NptFeatures};
use waterbear_vmx::ept::{self, EptFeatures};

/// A kind of second-level paging.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// EPT with accessed and dirty bits.
    Ept,
    /// EPT without: ageing takes permissions away.
    EptPlain,
    /// Nested paging.
    Npt,
}

/// The width of the simulated machine's physical addresses.
const PHYSICAL_BITS: u32 = 46;

impl Paging {
    /// All kinds.
    pub const ALL: [Paging; 3] = [Paging::Ept, Paging::EptPlain, Paging::Npt];

    /// The level of root tables.
    pub const ROOT: Level = if cfg!(loom) { Level::L2 } else { Level::L4 };

    /// The core's format, with a root table at `root_level`.
    pub fn format(self, root_level: Level) -> EntryFormat {
        let ept = |accessed_dirty| {
            ept::entry_format(EptFeatures {
                root_level,
                physical_bits: PHYSICAL_BITS,
                large_2m: true,
                large_1g: true,
                accessed_dirty,
            })
        };
        let format = match self {
            Paging::Ept => ept(true),
            Paging::EptPlain => ept(false),
            Paging::Npt => npt::entry_format(NptFeatures {
                root_level,
                physical_bits: PHYSICAL_BITS,
                large_1g: true,
            }),
        };
        format.expect("the features are those of a real CPU")
    }

    /// The simulated hardware.
    pub fn walker(self, root_level: Level) -> Walker {
        let format = match self {
            Paging::Ept => Format::Ept {
                ad: true,
                exec_only: false,
            },
            Paging::EptPlain => Format::Ept {
                ad: false,
                exec_only: false,
            },
            Paging::Npt => Format::Npt,
        };
        Walker::new(format, root_level)
    }
}
