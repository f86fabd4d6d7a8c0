//! Every register of the host's that a guest's run could change, and who sees to it that the run
//! does not: [`HOST_STATE`].
//!
//! What is switched where, on the way in and on the way back:
//!
//! | way | into the guest | back to the host |
//! |---|---|---|
//! | [`Way::Exit`] | VMRUN saves the host's and loads the guest's from the control block | the exit itself, from the host save area |
//! | [`Way::Vmload`] | VMSAVE puts the host's into a page of the CPU's own, VMLOAD takes the guest's from the control block | the same pair the other way round |
//! | [`Way::Assembly`] | [`world`](crate::world) pushes or loads it | it pops it, or clears it where the caller expects nothing |
//! | [`Way::ByHand`] | [`by_hand`](crate::by_hand) notes the host's | writes it back if it differs |
//! | [`Way::Fpu`] | the host's [`Fpu`](waterbear_hal::Fpu) loads the guest's before the run loop | and puts it away behind it |
//! | [`Way::Kept`] | nothing: the guest cannot write it | |
//!
//! Not in the list, because nobody reads it as a register: the interrupt flag and GIF, which
//! [`world`](crate::world) leaves as it found them; the time-stamp counter, which guests see
//! through an offset and cannot write; return predictions, which it overwrites after a run unless
//! automatic IBRS does; the other predictors, which are told to forget when another vCPU comes to
//! a CPU that has PRED_CMD. Mitigations that depend on the CPU's model, not on an enumerated
//! feature (untraining returns, clearing buffers with VERW), are not done.
//!
//! PKRU is part of the extended state: its guest's value is in the CPU from `load_guest_fpu` to
//! `unload_guest_fpu`, and a host whose own accesses to user memory obey it must not make any in
//! between.
//!
//! Source: AMD APM volume 2, "VMRUN Instruction", "#VMEXIT", "VMSAVE and VMLOAD Instructions".
use waterbear_core::arch::{SegmentName, TableName};

use crate::cpu;
use crate::detect::Features;

/// Where a register is, for whoever wants to read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A model-specific register.
    Msr(u32),
    /// A control register.
    Control(u8),
    /// A debug register.
    Debug(u8),
    /// XCR0.
    Xcr0,
    /// RFLAGS.
    Flags,
    /// The selector of a segment register.
    Selector(SegmentName),
    /// A descriptor-table register.
    Table(TableName),
    /// A general register; the compiler's, so that no function can read it.
    General,
    /// The state that XSAVE saves; the host's [`Fpu`](waterbear_hal::Fpu) can.
    Extended,
}

/// Who gives a register back to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The exit itself.
    Exit,
    /// VMLOAD.
    Vmload,
    /// The assembly around VMRUN.
    Assembly,
    /// [`by_hand`](crate::by_hand).
    ByHand,
    /// The host's FPU code.
    Fpu,
    /// Nobody needs to.
    Kept,
}

/// A register of the host's.
pub struct HostState {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
    /// Who gives it back.
    pub way: Way,
    /// Whether a CPU with these features has it.
    pub present: fn(&Features) -> bool,
}

const fn always(name: &'static str, place: Place, way: Way) -> HostState {
    HostState {
        name,
        place,
        way,
        present: |_| true,
    }
}

const fn on(
    name: &'static str,
    place: Place,
    way: Way,
    present: fn(&Features) -> bool,
) -> HostState {
    HostState {
        name,
        place,
        way,
        present,
    }
}

/// Every register of the host's that a guest's run could change.
pub const HOST_STATE: &[HostState] = &[
    always("RAX", Place::General, Way::Exit),
    always("RSP", Place::General, Way::Exit),
    always("RIP", Place::General, Way::Exit),
    always("RCX, RDX, RDI, R8 to R11", Place::General, Way::Assembly),
    always("RBX, RBP, RSI, R12 to R15", Place::General, Way::Assembly),
    always("RFLAGS", Place::Flags, Way::Exit),
    always("CR0", Place::Control(0), Way::Exit),
    always("CR2", Place::Control(2), Way::ByHand),
    always("CR3", Place::Control(3), Way::Exit),
    always("CR4", Place::Control(4), Way::Exit),
    always("CR8", Place::Control(8), Way::Kept),
    always("EFER", Place::Msr(cpu::EFER), Way::Exit),
    always("CS", Place::Selector(SegmentName::Cs), Way::Exit),
    always("SS", Place::Selector(SegmentName::Ss), Way::Exit),
    always("DS", Place::Selector(SegmentName::Ds), Way::Exit),
    always("ES", Place::Selector(SegmentName::Es), Way::Exit),
    always("GDTR", Place::Table(TableName::Gdtr), Way::Exit),
    always("IDTR", Place::Table(TableName::Idtr), Way::Exit),
    always("FS", Place::Selector(SegmentName::Fs), Way::Vmload),
    always("GS", Place::Selector(SegmentName::Gs), Way::Vmload),
    always("LDTR", Place::Selector(SegmentName::Ldtr), Way::Vmload),
    always("TR", Place::Selector(SegmentName::Tr), Way::Vmload),
    always("FS_BASE", Place::Msr(0xc000_0100), Way::Vmload),
    always("GS_BASE", Place::Msr(0xc000_0101), Way::Vmload),
    always("KERNEL_GS_BASE", Place::Msr(0xc000_0102), Way::Vmload),
    always("STAR", Place::Msr(0xc000_0081), Way::Vmload),
    always("LSTAR", Place::Msr(0xc000_0082), Way::Vmload),
    always("CSTAR", Place::Msr(0xc000_0083), Way::Vmload),
    always("SFMASK", Place::Msr(0xc000_0084), Way::Vmload),
    always("SYSENTER_CS", Place::Msr(0x174), Way::Vmload),
    always("SYSENTER_ESP", Place::Msr(0x175), Way::Vmload),
    always("SYSENTER_EIP", Place::Msr(0x176), Way::Vmload),
    always("DR0", Place::Debug(0), Way::ByHand),
    always("DR1", Place::Debug(1), Way::ByHand),
    always("DR2", Place::Debug(2), Way::ByHand),
    always("DR3", Place::Debug(3), Way::ByHand),
    always("DR6", Place::Debug(6), Way::ByHand),
    always("DR7", Place::Debug(7), Way::ByHand),
    on("XCR0", Place::Xcr0, Way::ByHand, |has| has.xsave),
    on("XSS", Place::Msr(cpu::XSS), Way::ByHand, |has| has.xsaves),
    on("TSC_AUX", Place::Msr(cpu::TSC_AUX), Way::ByHand, |has| {
        has.tsc_aux
    }),
    always("x87, SSE, AVX, PKRU", Place::Extended, Way::Fpu),
    // The guest's is in the control block, beside the host's.
    always("PAT", Place::Msr(0x277), Way::Kept),
    // Guests have no such register: it exits, and the host's stays in force.
    on("SPEC_CTRL", Place::Msr(0x48), Way::Kept, |has| {
        has.spec_ctrl
    }),
    always("DEBUGCTL", Place::Msr(0x1d9), Way::Kept),
    always("APIC_BASE", Place::Msr(0x1b), Way::Kept),
    always("VM_HSAVE_PA", Place::Msr(cpu::VM_HSAVE_PA), Way::Kept),
];

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_register_is_listed_twice() {
        for (i, one) in HOST_STATE.iter().enumerate() {
            for other in &HOST_STATE[i + 1..] {
                assert_ne!(one.name, other.name);
                let general = matches!(one.place, Place::General);
                assert!(general || one.place != other.place, "{}", one.name);
            }
        }
    }

    #[test]
    fn every_msr_that_guests_write_without_an_exit_is_given_back() {
        for msr in crate::permission::PASSED {
            let listed = HOST_STATE.iter().find(|it| it.place == Place::Msr(msr));
            assert!(
                listed.is_some_and(|it| it.way == Way::Vmload),
                "{msr:#x} is passed through and not switched",
            );
        }
    }
}
