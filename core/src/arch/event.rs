//! What interrupts a guest: exceptions, NMIs, interrupts, and what holds them off.
//!
//! Source: Intel SDM volume 3, "Interrupt and Exception Handling"; AMD APM volume 2, "Exceptions
//! and Interrupts".

/// An exception of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// The vector, 0 to 31.
    pub vector: u8,
    /// The error code, where the vector has one.
    pub error: Option<u32>,
    /// What a register gets when the exception is delivered: CR2 for a page fault, the new bits of
    /// DR6 for a debug exception.
    pub payload: u64,
}

impl Exception {
    /// The vector of divide errors.
    pub const DE: u8 = 0;
    /// The vector of debug exceptions.
    pub const DB: u8 = 1;
    /// The vector of breakpoints (INT3).
    pub const BP: u8 = 3;
    /// The vector of overflows (INTO).
    pub const OF: u8 = 4;
    /// The vector of invalid opcodes.
    pub const UD: u8 = 6;
    /// The vector of "no FPU".
    pub const NM: u8 = 7;
    /// The vector of double faults.
    pub const DF: u8 = 8;
    /// The vector of invalid task-state segments.
    pub const TS: u8 = 10;
    /// The vector of segments that are not present.
    pub const NP: u8 = 11;
    /// The vector of stack faults.
    pub const SS: u8 = 12;
    /// The vector of general protection.
    pub const GP: u8 = 13;
    /// The vector of page faults.
    pub const PF: u8 = 14;
    /// The vector of x87 errors.
    pub const MF: u8 = 16;
    /// The vector of alignment checks.
    pub const AC: u8 = 17;
    /// The vector of machine checks.
    pub const MC: u8 = 18;
    /// The vector of SSE errors.
    pub const XM: u8 = 19;

    /// An exception without an error code.
    pub const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error: None,
            payload: 0,
        }
    }

    /// An exception with an error code.
    pub const fn with_error(vector: u8, error: u32) -> Self {
        Self {
            vector,
            error: Some(error),
            payload: 0,
        }
    }

    /// #UD.
    pub const fn invalid_opcode() -> Self {
        Self::plain(Self::UD)
    }

    /// #GP with an error code: a selector, or 0.
    pub const fn general_protection(error: u32) -> Self {
        Self::with_error(Self::GP, error)
    }

    /// #PF at a linear address.
    pub const fn page_fault(address: u64, error: u32) -> Self {
        Self {
            vector: Self::PF,
            error: Some(error),
            payload: address,
        }
    }
}

/// What an entry delivers to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An exception.
    Exception(Exception),
    /// INT3 or INTO, whose return address is behind the instruction: `length` is its length.
    SoftException {
        /// The vector.
        vector: u8,
        /// Bytes of the instruction.
        length: u8,
    },
    /// INT n.
    SoftInterrupt {
        /// The vector.
        vector: u8,
        /// Bytes of the instruction.
        length: u8,
    },
    /// An external interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
}

bitflags::bitflags! {
    /// What holds events off in the guest.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Shadow: u8 {
        /// The instruction before this one was STI.
        const STI = 1 << 0;
        /// The instruction before this one loaded SS. Where the hardware does not tell the two
        /// apart, this one stands for both.
        const MOV_SS = 1 << 1;
        /// An NMI is being handled.
        const NMI = 1 << 3;
    }
}
