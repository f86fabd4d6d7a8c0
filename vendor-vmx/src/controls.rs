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

    /// The bits that are `needed`, those of `wanted` that the CPU has, and those that must be 1.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] when a needed bit may not be 1.
    pub fn adjust(self, needed: u32, wanted: u32) -> Result<u32, Error> {
        if self.allows(needed) {
            Ok(needed | wanted & self.may | self.must)
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
    /// Primary processor-based VM-execution controls, without the windows.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls, without "IA-32e mode guest".
    pub entry: u32,
}

impl Controls {
    /// What the core needs, on this CPU.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] when the CPU lacks some of it.
    pub fn new(features: &Features) -> Result<Self, Error> {
        // Every CPU with unrestricted guests has virtual NMIs.
        let pin = PinbasedControls::EXTERNAL_INTERRUPT_EXITING
            | PinbasedControls::NMI_EXITING
            | PinbasedControls::VIRTUAL_NMIS;
        // CR8 is the host's task priority here: so a guest must not even read it.
        let primary = PrimaryControls::HLT_EXITING
            | PrimaryControls::UNCOND_IO_EXITING
            | PrimaryControls::USE_MSR_BITMAPS
            | PrimaryControls::CR8_LOAD_EXITING
            | PrimaryControls::CR8_STORE_EXITING
            | PrimaryControls::MOV_DR_EXITING
            | PrimaryControls::USE_TSC_OFFSETTING
            | PrimaryControls::RDPMC_EXITING
            | PrimaryControls::MONITOR_EXITING
            | PrimaryControls::MWAIT_EXITING
            | PrimaryControls::SECONDARY_CONTROLS;
        let secondary = SecondaryControls::ENABLE_EPT | SecondaryControls::UNRESTRICTED_GUEST;
        // SGX has instructions of its own that reach the host's enclave memory.
        let extra = SecondaryControls::ENABLE_VPID
            | SecondaryControls::WBINVD_EXITING
            | SecondaryControls::ENABLE_RDTSCP
            | SecondaryControls::ENABLE_INVPCID
            | SecondaryControls::ENABLE_XSAVES_XRSTORS
            | SecondaryControls::PAUSE_LOOP_EXITING
            | SecondaryControls::ENCLS_EXITING;
        let exit = ExitControls::HOST_ADDRESS_SPACE_SIZE | ExitControls::LOAD_IA32_EFER;
        let entry = EntryControls::LOAD_IA32_EFER | EntryControls::LOAD_DEBUG_CONTROLS;
        Ok(Self {
            pin: features.pin.adjust(pin.bits(), 0)?,
            primary: features.primary.adjust(primary.bits(), 0)?,
            secondary: features.secondary.adjust(secondary.bits(), extra.bits())?,
            exit: features.exit.adjust(exit.bits(), 0)?,
            entry: features.entry.adjust(entry.bits(), 0)?,
        })
    }

    /// Whether a secondary control is on.
    pub fn has(&self, secondary: SecondaryControls) -> bool {
        self.secondary & secondary.bits() != 0
    }

    /// An answer of this CPU's CPUID, without instructions that raise #UD in a guest because a
    /// control for them is missing.
    ///
    /// Source: Intel SDM volume 3, "Secondary Processor-Based VM-Execution Controls".
    pub fn limit_cpuid(&self, function: u32, index: u32, answer: [u32; 4]) -> [u32; 4] {
        const RDTSCP: u32 = 1 << 27;
        const INVPCID: u32 = 1 << 10;
        const WAITPKG: u32 = 1 << 5;
        const RDPID: u32 = 1 << 22;
        const XSAVES: u32 = 1 << 3;
        let [mut a, mut b, mut c, mut d] = answer;
        let has_rdtscp = self.has(SecondaryControls::ENABLE_RDTSCP);
        match (function, index) {
            (7, 0) => {
                c &= !WAITPKG;
                if !has_rdtscp {
                    c &= !RDPID;
                }
                if !self.has(SecondaryControls::ENABLE_INVPCID) {
                    b &= !INVPCID;
                }
            }
            (0xd, 1) if !self.has(SecondaryControls::ENABLE_XSAVES_XRSTORS) => a &= !XSAVES,
            (0x8000_0001, _) if !has_rdtscp => d &= !RDTSCP,
            _ => {}
        }
        [a, b, c, d]
    }

    /// The primary controls with exits for the windows that are wanted.
    pub fn with_windows(&self, interrupt: bool, nmi: bool) -> u32 {
        let mut controls = self.primary;
        if interrupt {
            controls |= PrimaryControls::INTERRUPT_WINDOW_EXITING.bits();
        }
        if nmi {
            controls |= PrimaryControls::NMI_WINDOW_EXITING.bits();
        }
        controls
    }

    /// The entry controls for a guest in long mode or not.
    pub fn entry_for(&self, long: bool) -> u32 {
        if long {
            self.entry | EntryControls::IA32E_MODE_GUEST.bits()
        } else {
            self.entry
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bits_that_must_be_set_are_and_bits_that_may_not_are_refused() {
        let capability = Capability::from_msr(0x0000_00ff_0000_0016);
        assert_eq!(capability.adjust(0x80, 0), Ok(0x96));
        assert_eq!(capability.adjust(0x100, 0), Err(Error::NotSupported));
    }

    #[test]
    fn instructions_without_their_control_are_not_shown() {
        let mut controls = Controls {
            pin: 0,
            primary: 0,
            secondary: 0,
            exit: 0,
            entry: 0,
        };
        let ones = [u32::MAX; 4];
        let cleared = |controls: &Controls, function, index| {
            let answer = controls.limit_cpuid(function, index, ones);
            answer.map(|word| !word)
        };
        let c = 1 << 5 | 1 << 22;
        assert_eq!(cleared(&controls, 7, 0), [0, 1 << 10, c, 0]);
        assert_eq!(cleared(&controls, 0xd, 1), [1 << 3, 0, 0, 0]);
        assert_eq!(cleared(&controls, 0x8000_0001, 0), [0, 0, 0, 1 << 27]);
        assert_eq!(cleared(&controls, 0xd, 0), [0; 4]);
        controls.secondary = SecondaryControls::all().bits();
        assert_eq!(cleared(&controls, 7, 0), [0, 0, 1 << 5, 0]);
        assert_eq!(cleared(&controls, 0x8000_0001, 0), [0; 4]);
    }

    #[test]
    fn bits_that_are_only_wanted_are_set_where_the_cpu_has_them() {
        let capability = Capability::from_msr(0x0000_00ff_0000_0000);
        assert_eq!(capability.adjust(0x80, 0x101), Ok(0x81));
    }
}
