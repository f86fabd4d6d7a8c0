//! What the host decides about a guest, as this CPU allows it.
//!
//! Source: Intel SDM volume 3, "VM-Execution Control Fields" and "Algorithms
//! for Determining VMX Capabilities".
use waterbear_core::vendor::Unsupported;
use x86::vmx::vmcs::control::{
    self, EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

/// What a control field may be, as a capability register has it: bits that must be 1 in the lower
/// half, bits that may be 1 in the upper.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capability(u64);

impl Capability {
    /// What a capability register says.
    pub const fn from_msr(msr: u64) -> Self {
        Self(msr)
    }

    /// Whether all of `bits` may be 1.
    pub const fn allows(self, bits: u32) -> bool {
        (self.0 >> 32) as u32 & bits == bits
    }

    /// The bits that are `needed`, those of `wanted` that the CPU has, and those that must be 1.
    ///
    /// # Errors
    ///
    /// [`Unsupported::LacksControls`] when a needed bit may not be 1.
    pub fn adjust(self, needed: u32, wanted: u32) -> Result<u32, Unsupported> {
        if self.allows(needed) {
            Ok(needed | wanted & (self.0 >> 32) as u32 | self.0 as u32)
        } else {
            Err(Unsupported::LacksControls)
        }
    }
}

/// A group of controls: what the host decides about a guest with one field. The first four are
/// numbered as their capability registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Group {
    /// Pin-based VM-execution controls.
    Pin,
    /// Primary processor-based VM-execution controls; in [`Controls`] without the windows.
    Primary,
    /// VM-exit controls.
    Exit,
    /// VM-entry controls; in [`Controls`] without "IA-32e mode guest".
    Entry,
    /// Secondary processor-based VM-execution controls.
    Secondary,
}

/// What the control fields may be, by [`Group`].
pub type Capabilities = [Capability; 5];

/// The fields, by [`Group`].
pub const FIELDS: [u32; 5] = [
    control::PINBASED_EXEC_CONTROLS,
    control::PRIMARY_PROCBASED_EXEC_CONTROLS,
    control::VMEXIT_CONTROLS,
    control::VMENTRY_CONTROLS,
    control::SECONDARY_PROCBASED_EXEC_CONTROLS,
];

/// What the core needs, and wants where the CPU has it, by [`Group`].
const NEEDED: [(u32, u32); 5] = [
    (
        // Every CPU with unrestricted guests has virtual NMIs.
        PinbasedControls::EXTERNAL_INTERRUPT_EXITING
            .union(PinbasedControls::NMI_EXITING)
            .union(PinbasedControls::VIRTUAL_NMIS)
            .bits(),
        0,
    ),
    (
        // CR8 is the host's task priority here: so a guest must not even read it.
        PrimaryControls::HLT_EXITING
            .union(PrimaryControls::UNCOND_IO_EXITING)
            .union(PrimaryControls::USE_MSR_BITMAPS)
            .union(PrimaryControls::CR8_LOAD_EXITING)
            .union(PrimaryControls::CR8_STORE_EXITING)
            .union(PrimaryControls::MOV_DR_EXITING)
            .union(PrimaryControls::USE_TSC_OFFSETTING)
            .union(PrimaryControls::RDPMC_EXITING)
            .union(PrimaryControls::MONITOR_EXITING)
            .union(PrimaryControls::MWAIT_EXITING)
            .union(PrimaryControls::SECONDARY_CONTROLS)
            .bits(),
        0,
    ),
    (
        ExitControls::HOST_ADDRESS_SPACE_SIZE
            .union(ExitControls::LOAD_IA32_EFER)
            .bits(),
        0,
    ),
    (
        EntryControls::LOAD_IA32_EFER
            .union(EntryControls::LOAD_DEBUG_CONTROLS)
            .bits(),
        0,
    ),
    (
        SecondaryControls::ENABLE_EPT
            .union(SecondaryControls::UNRESTRICTED_GUEST)
            .bits(),
        // SGX has instructions of its own that reach the host's enclave memory.
        SecondaryControls::ENABLE_VPID
            .union(SecondaryControls::WBINVD_EXITING)
            .union(SecondaryControls::ENABLE_RDTSCP)
            .union(SecondaryControls::ENABLE_INVPCID)
            .union(SecondaryControls::ENABLE_XSAVES_XRSTORS)
            .union(SecondaryControls::PAUSE_LOOP_EXITING)
            .union(SecondaryControls::ENCLS_EXITING)
            .bits(),
    ),
];

/// The control fields of every guest of this machine, by [`Group`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Controls([u32; 5]);

impl Controls {
    /// What the core needs, on this CPU.
    ///
    /// # Errors
    ///
    /// [`Unsupported::LacksControls`] when the CPU lacks some of it.
    pub fn new(capabilities: &Capabilities) -> Result<Self, Unsupported> {
        let mut this = Self::default();
        let all = this.0.iter_mut().zip(capabilities).zip(&NEEDED);
        for ((field, capability), &(needed, wanted)) in all {
            *field = capability.adjust(needed, wanted)?;
        }
        Ok(this)
    }

    /// All fields, in the order of [`FIELDS`].
    pub fn all(&self) -> &[u32; 5] {
        &self.0
    }

    /// A field.
    pub fn get(&self, group: Group) -> u32 {
        self.0[group as usize]
    }

    /// Whether a secondary control is on.
    pub fn has(&self, secondary: SecondaryControls) -> bool {
        self.get(Group::Secondary) & secondary.bits() != 0
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
        let mut controls = self.get(Group::Primary);
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
        let entry = self.get(Group::Entry);
        if long {
            entry | EntryControls::IA32E_MODE_GUEST.bits()
        } else {
            entry
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
        let refused = Err(Unsupported::LacksControls);
        assert_eq!(capability.adjust(0x100, 0), refused);
    }

    #[test]
    fn instructions_without_their_control_are_not_shown() {
        let mut controls = Controls::default();
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
        controls.0[Group::Secondary as usize] = SecondaryControls::all().bits();
        assert_eq!(cleared(&controls, 7, 0), [0, 0, 1 << 5, 0]);
        assert_eq!(cleared(&controls, 0x8000_0001, 0), [0; 4]);
    }

    #[test]
    fn bits_that_are_only_wanted_are_set_where_the_cpu_has_them() {
        let capability = Capability::from_msr(0x0000_00ff_0000_0000);
        assert_eq!(capability.adjust(0x80, 0x101), Ok(0x81));
    }
}
