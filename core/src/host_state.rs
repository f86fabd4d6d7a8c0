//! What of the host's CPU a guest can change, as data: so that a test can walk the list, and
//! compare what the host has before and after guests that change all of it.
use crate::arch::SegmentName;

/// A register of the host's that a guest can change, or a group of them.
#[derive(Clone, Copy, Debug)]
pub struct HostState {
    /// What manuals call it.
    pub name: &'static str,
    /// How the host reads it.
    pub read: Read,
    /// Who puts the host's back, and when.
    pub restored: &'static str,
}

/// How the host reads one of its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// RDMSR. Not every CPU has every register; reading one that is not there is #GP.
    Msr(u32),
    /// RDMSR, of a register that changes by itself: there is nothing to compare.
    Clock(u32),
    /// MOV from a control register.
    Cr(u8),
    /// MOV from a debug register.
    Dr(u8),
    /// XGETBV with 0, where CR4.OSXSAVE is set.
    Xcr0,
    /// The selector: MOV from the register, SLDT or STR.
    Segment(SegmentName),
    /// SGDT.
    Gdtr,
    /// SIDT.
    Idtr,
    /// PUSHFQ.
    Flags,
    /// The general registers that the host's calling convention keeps.
    General,
    /// What the host's FPU code keeps apart (`waterbear_hal::Fpu`): XSAVE.
    ByFpu,
    /// Not compared: the host does not mind what it is.
    Dead,
}
