//! What this CPU has, or why it cannot host guests.
//!
//! Source: Intel SDM volume 3, "VMX Capability Reporting Facility" and
//! "Enabling and Entering VMX Operation".
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::Unsupported;
use waterbear_hal::Level;

use crate::controls::Capabilities;
use crate::ept::{self, EptFeatures};

/// What CPUID and the capability registers say, as one CPU said it. Registers
/// that the CPU does not have read as 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// CPUID 1, ECX.
    pub features_ecx: u32,
    /// CPUID 8000_0008, EAX.
    pub address_eax: u32,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// What the control fields may be, from the true form of a capability register where there is
    /// one.
    pub controls: Capabilities,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept: u64,
}

const VMX: u32 = 1 << 5;
const LOCKED: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;
/// Secondary controls: EPT.
const ENABLE_EPT: u32 = 1 << 1;
/// Secondary controls: unrestricted guest.
const UNRESTRICTED: u32 = 1 << 7;
/// EPT capabilities: root tables at level 4, write-back paging structures.
const WALK_4: u64 = 1 << 6;
const WRITE_BACK: u64 = 1 << 14;
const LARGE_2M: u64 = 1 << 16;
const LARGE_1G: u64 = 1 << 17;
const INVEPT: u64 = 1 << 20;
const ACCESSED_DIRTY: u64 = 1 << 21;
const INVEPT_SINGLE: u64 = 1 << 25;
const INVEPT_ALL: u64 = 1 << 26;
/// Everything that the page tables and their caches need.
const NEEDED: u64 = WALK_4 | WRITE_BACK | INVEPT | INVEPT_SINGLE | INVEPT_ALL;

/// What the CPU has of VMX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// What control structures begin with.
    pub revision: u32,
    /// The firmware left the decision about VMX to us.
    pub unlocked: bool,
    /// What of EPT there is.
    pub ept: EptFeatures,
    /// What the control fields may be.
    pub controls: Capabilities,
}

impl Facts {
    /// What of VMX there is.
    ///
    /// # Errors
    ///
    /// Why the CPU cannot host guests.
    pub fn features(&self) -> Result<Features, Unsupported> {
        if self.features_ecx & VMX == 0 {
            return Err(Unsupported::NoVirtualization);
        }
        let unlocked = self.feature_control & LOCKED == 0;
        if !unlocked && self.feature_control & VMX_OUTSIDE_SMX == 0 {
            return Err(Unsupported::DisabledByFirmware);
        }
        let has = |bits| self.ept & bits == bits;
        let [.., secondary] = self.controls;
        if !secondary.allows(ENABLE_EPT) || !has(NEEDED) {
            return Err(Unsupported::NoSecondLevelPaging);
        }
        if !secondary.allows(UNRESTRICTED) {
            return Err(Unsupported::NoUnrestrictedGuest);
        }
        Ok(Features {
            revision: self.basic as u32 & 0x7fff_ffff,
            unlocked,
            ept: EptFeatures {
                root_level: Level::L4,
                // Before CPUID told the width it was 36.
                physical_bits: match self.address_eax & 0xff {
                    0 => 36,
                    bits => bits.min(52),
                },
                large_2m: has(LARGE_2M),
                large_1g: has(LARGE_1G),
                accessed_dirty: has(ACCESSED_DIRTY),
            },
            controls: self.controls,
        })
    }
}

impl Features {
    /// The format of EPT entries.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the features.
    pub const fn entry_format(&self) -> Result<EntryFormat, &'static str> {
        ept::entry_format(self.ept)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::controls::{Capability, Group};

    fn secondary(may: u32) -> Capabilities {
        let mut controls = Capabilities::default();
        controls[Group::Secondary as usize] = Capability::from_msr(u64::from(may) << 32);
        controls
    }

    fn haswell() -> Facts {
        Facts {
            features_ecx: VMX,
            address_eax: 0x3027,
            feature_control: LOCKED | VMX_OUTSIDE_SMX,
            basic: 1 << 55 | 0x1000 << 32 | 0x12,
            controls: secondary(ENABLE_EPT | UNRESTRICTED),
            ept: NEEDED | LARGE_2M | ACCESSED_DIRTY,
        }
    }

    #[test]
    fn a_cpu_with_ept_and_unrestricted_guests_is_able() {
        let features = haswell().features().unwrap();
        assert_eq!(features.revision, 0x12);
        assert_eq!(features.ept.physical_bits, 39);
        assert!(features.ept.large_2m && !features.ept.large_1g && !features.unlocked);
        assert!(features.entry_format().is_ok());
    }

    #[test]
    fn a_cpu_that_lacks_something_is_refused_with_the_first_reason() {
        use Unsupported::*;
        let refused = |change: fn(&mut Facts)| {
            let mut facts = haswell();
            change(&mut facts);
            facts.features().err()
        };
        assert_eq!(refused(|f| f.features_ecx = 0), Some(NoVirtualization));
        assert_eq!(
            refused(|f| f.feature_control = LOCKED),
            Some(DisabledByFirmware)
        );
        assert_eq!(refused(|f| f.feature_control = 0), None);
        assert_eq!(refused(|f| f.ept = 0), Some(NoSecondLevelPaging));
        assert_eq!(
            refused(|f| f.controls = secondary(ENABLE_EPT)),
            Some(NoUnrestrictedGuest)
        );
    }
}
