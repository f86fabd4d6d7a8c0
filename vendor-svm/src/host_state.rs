//! Every register of the host's that a guest's run could change, and who sees to it that the run
//! does not: [`HOST_STATE`].
//!
//! What is switched where, on the way in and on the way back:
//!
//! | who | into the guest | back to the host |
//! |---|---|---|
//! | the exit | VMRUN saves the host's and loads the guest's from the control block | the exit itself, from the host save area |
//! | VMLOAD | VMSAVE puts the host's into a page of the CPU's own, VMLOAD takes the guest's from the control block | the same pair the other way round |
//! | assembly | [`world`](crate::world) pushes or loads it | it pops it, or clears it where the caller expects nothing |
//! | by hand | [`by_hand`](crate::by_hand) notes the host's | writes it back if it differs |
//! | the host's FPU code | the host's [`Fpu`](waterbear_hal::Fpu) loads the guest's before the run loop | and puts it away behind it |
//! | nobody | nothing: the guest cannot write it | |
//!
//! Not in the list, because nobody reads it as a register: the interrupt flag and GIF, which
//! [`world`](crate::world) leaves as it found them; the time-stamp counter, which guests see
//! through an offset and cannot write; return predictions, which it overwrites after a run unless
//! automatic IBRS does or the host says that it trusts them; the other predictors, which are told to forget when another vCPU comes to
//! a CPU that has PRED_CMD. Mitigations that depend on the CPU's model, not on an enumerated
//! feature (untraining returns, clearing buffers with VERW), are not done.
//!
//! PKRU is part of the extended state: its guest's value is in the CPU from `load_guest_fpu` to
//! `unload_guest_fpu`, and a host whose own accesses to user memory obey it must not make any in
//! between.
//!
//! Source: AMD APM volume 2, "VMRUN Instruction", "#VMEXIT", "VMSAVE and VMLOAD Instructions".
use waterbear_core::arch::SegmentName;
use waterbear_core::host_state::{HostState, Read};

use crate::cpu;

const fn state(name: &'static str, read: Read, restored: &'static str) -> HostState {
    HostState {
        name,
        read,
        restored,
    }
}

const EXIT: &str = "the exit, from the host save area";
const VMLOAD: &str = "VMLOAD, from what VMSAVE wrote on the way in (world)";
const ASSEMBLY: &str = "the assembly: from the stack, or cleared (world)";
const BY_HAND: &str = "by hand, where the guest's differs (by_hand)";
const KEPT: &str = "nobody: guests cannot write it";

/// Every register of the host's that a guest's run could change.
pub const HOST_STATE: &[HostState] = &[
    state("RAX", Read::General, EXIT),
    state("RSP", Read::General, EXIT),
    state("RIP", Read::General, EXIT),
    state("RCX, RDX, RDI, R8 to R11", Read::General, ASSEMBLY),
    state("RBX, RBP, RSI, R12 to R15", Read::General, ASSEMBLY),
    state("RFLAGS", Read::Flags, EXIT),
    state("CR0", Read::Cr(0), EXIT),
    state("CR2", Read::Cr(2), BY_HAND),
    state("CR3", Read::Cr(3), EXIT),
    state("CR4", Read::Cr(4), EXIT),
    state("CR8", Read::Cr(8), KEPT),
    state("EFER", Read::Msr(cpu::EFER), EXIT),
    state("CS", Read::Segment(SegmentName::Cs), EXIT),
    state("SS", Read::Segment(SegmentName::Ss), EXIT),
    state("DS", Read::Segment(SegmentName::Ds), EXIT),
    state("ES", Read::Segment(SegmentName::Es), EXIT),
    state("GDTR", Read::Gdtr, EXIT),
    state("IDTR", Read::Idtr, EXIT),
    state("FS", Read::Segment(SegmentName::Fs), VMLOAD),
    state("GS", Read::Segment(SegmentName::Gs), VMLOAD),
    state("LDTR", Read::Segment(SegmentName::Ldtr), VMLOAD),
    state("TR", Read::Segment(SegmentName::Tr), VMLOAD),
    state("FS_BASE", Read::Msr(0xc000_0100), VMLOAD),
    state("GS_BASE", Read::Msr(0xc000_0101), VMLOAD),
    state("KERNEL_GS_BASE", Read::Msr(0xc000_0102), VMLOAD),
    state("STAR", Read::Msr(0xc000_0081), VMLOAD),
    state("LSTAR", Read::Msr(0xc000_0082), VMLOAD),
    state("CSTAR", Read::Msr(0xc000_0083), VMLOAD),
    state("SFMASK", Read::Msr(0xc000_0084), VMLOAD),
    state("SYSENTER_CS", Read::Msr(0x174), VMLOAD),
    state("SYSENTER_ESP", Read::Msr(0x175), VMLOAD),
    state("SYSENTER_EIP", Read::Msr(0x176), VMLOAD),
    state("DR0", Read::Dr(0), BY_HAND),
    state("DR1", Read::Dr(1), BY_HAND),
    state("DR2", Read::Dr(2), BY_HAND),
    state("DR3", Read::Dr(3), BY_HAND),
    state("DR6", Read::Dr(6), BY_HAND),
    state("DR7", Read::Dr(7), BY_HAND),
    state("XCR0", Read::Xcr0, BY_HAND),
    state("XSS", Read::Msr(cpu::XSS), BY_HAND),
    state("TSC_AUX", Read::Msr(cpu::TSC_AUX), BY_HAND),
    state(
        "x87, SSE, AVX, PKRU",
        Read::ByFpu,
        "the host, when it unloads the guest's (`Fpu`)",
    ),
    // The guest's is in the control block, beside the host's.
    state("PAT", Read::Msr(0x277), KEPT),
    // Guests have no such register: it exits, and the host's stays in force.
    state("SPEC_CTRL", Read::Msr(0x48), KEPT),
    state("DEBUGCTL", Read::Msr(0x1d9), KEPT),
    state("APIC_BASE", Read::Msr(0x1b), KEPT),
    state(
        "TSC",
        Read::Clock(0x10),
        "nobody: writes exit, and guests see it through an offset",
    ),
    state("VM_HSAVE_PA", Read::Msr(cpu::VM_HSAVE_PA), KEPT),
];

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_register_is_listed_twice() {
        for (i, one) in HOST_STATE.iter().enumerate() {
            for other in &HOST_STATE[i + 1..] {
                assert_ne!(one.name, other.name);
                assert!(
                    one.read == Read::General || one.read != other.read,
                    "{}",
                    one.name
                );
            }
        }
    }

    #[test]
    fn every_msr_that_guests_write_without_an_exit_is_given_back() {
        for msr in crate::permission::PASSED {
            let listed = HOST_STATE.iter().find(|it| it.read == Read::Msr(msr));
            assert!(
                listed.is_some_and(|it| it.restored == VMLOAD),
                "{msr:#x} is passed through and not switched",
            );
        }
    }
}
