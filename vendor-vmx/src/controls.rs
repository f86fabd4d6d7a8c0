//! What the host decides about a guest, as this CPU allows it.
//!
//! Source: Intel SDM volume 3, "VM-Execution Control Fields" and "Algorithms
//! for Determining VMX Capabilities".
use waterbear_core::Error;
use x86::vmx::vmcs::control::{
    EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

use crate::detect::Features;

/// What a control field may be: bits that must be 1 and bits that may be 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capability {
    must: u32,
    may: u32,
}

impl Capability {
    /// As a capability register has it: "must" in the lower half, "may" in the
    /// upper.
    pub const fn from_msr(msr: u64) -> Self {
        Self {
            must: msr as u32,
            may: (msr >> 32) as u32,
        }
    }

    /// Whether all of `bits` may be 1.
    pub const fn allows(self, bits: u32) -> bool {
        self.may & bits == bits
    }

    /// `wanted`, with the bits that must be 1.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] when a wanted bit may not be 1.
    pub fn adjust(self, wanted: u32) -> Result<u32, Error> {
        if self.allows(wanted) {
            Ok(wanted | self.must)
        } else {
            Err(Error::NotSupported)
        }
    }
}

/// The control fields of every guest of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Controls {
    /// Pin-based VM-execution controls.
    pub pin: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls.
    pub entry: u32,
}

impl Controls {
    /// What the core needs, on this CPU.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] when the CPU lacks some of it.
    pub fn new(features: &Features) -> Result<Self, Error> {
        let pin = PinbasedControls::EXTERNAL_INTERRUPT_EXITING | PinbasedControls::NMI_EXITING;
        let primary = PrimaryControls::HLT_EXITING
            | PrimaryControls::UNCOND_IO_EXITING
            | PrimaryControls::SECONDARY_CONTROLS;
        let secondary = SecondaryControls::ENABLE_EPT | SecondaryControls::UNRESTRICTED_GUEST;
        let exit = ExitControls::HOST_ADDRESS_SPACE_SIZE
            | ExitControls::SAVE_IA32_EFER
            | ExitControls::LOAD_IA32_EFER;
        let entry = EntryControls::LOAD_IA32_EFER;
        Ok(Self {
            pin: features.pin.adjust(pin.bits())?,
            primary: features.primary.adjust(primary.bits())?,
            secondary: features.secondary.adjust(secondary.bits())?,
            exit: features.exit.adjust(exit.bits())?,
            entry: features.entry.adjust(entry.bits())?,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bits_that_must_be_set_are_and_bits_that_may_not_are_refused() {
        let capability = Capability::from_msr(0x0000_00ff_0000_0016);
        assert_eq!(capability.adjust(0x80), Ok(0x96));
        assert_eq!(capability.adjust(0x100), Err(Error::NotSupported));
    }
}
