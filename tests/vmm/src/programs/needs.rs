//! What programs must not expect of this machine.
use std::arch::x86_64::__cpuid_count;

use waterbear_guests::Need;

/// The emulator that this machine runs in, if it runs in one whose CPU is lax.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emulator {
    /// None, or none that is known.
    None,
    /// QEMU's own code generator.
    Qemu,
    /// Bochs, as a CPU with VMX.
    Bochs,
    /// Bochs, as a CPU with SVM.
    BochsSvm,
}

impl Emulator {
    /// The one that CPUID tells of: Bochs keeps quiet about itself.
    #[must_use]
    pub fn detect() -> Self {
        let says_so = __cpuid_count(1, 0).ecx >> 31 != 0;
        let name = __cpuid_count(0x4000_0000, 0);
        let name = [name.ebx, name.ecx, name.edx].map(u32::to_le_bytes);
        if says_so && name.as_flattened() == b"TCGTCGTCGTCG" {
            Self::Qemu
        } else {
            Self::None
        }
    }

    /// Its bits of `guest.inc`, and that of the interface, which has no word for trackers.
    pub(super) fn quirks(self) -> u32 {
        const NO_TRACKER: u32 = 16;
        NO_TRACKER
            | match self {
                Self::None => 0,
                Self::Qemu => 1,
                Self::Bochs => 4,
                Self::BochsSvm => 2 | 4,
            }
    }

    /// Why a program that needs this says nothing here.
    pub(super) fn lacks(self, need: Need) -> Option<&'static str> {
        let qemu = self == Self::Qemu;
        let (lacking, reason) = match need {
            Need::SegmentChecks => (
                qemu,
                "this emulator does not check segments on every access",
            ),
            Need::OwnShutdown => (
                self == Self::BochsSvm,
                "a guest's triple fault resets this emulator",
            ),
            Need::DebugExceptions => (
                qemu,
                "this emulator has no breakpoints and alignment checks in guests",
            ),
            Need::TaskSwitches => (
                qemu,
                "this emulator switches tasks without telling the host",
            ),
            Need::Hypercalls => (qemu, "this emulator raises #UD for VMMCALL"),
            Need::Tracker => (true, "the interface has no word for trackers"),
        };
        lacking.then_some(reason)
    }
}
