//! Why a vCPU left the guest, in words that no vendor owns.
use waterbear_hal::Gpa;

use crate::tdp::fast::Access;

/// Why a vCPU left the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The guest touched memory that is not mapped for it.
    Fault {
        /// The address it touched.
        gpa: Gpa,
        /// How.
        access: Access,
    },
    /// The guest touched memory behind an MMIO entry.
    Mmio {
        /// The address it touched.
        gpa: Gpa,
        /// How.
        access: Access,
    },
    /// IN or OUT.
    Io(IoExit),
    /// HLT; RIP is behind it.
    Halt,
    /// The host was interrupted; it takes the interrupt when it can.
    Interrupt,
    /// The guest's CPU shut down (triple fault).
    Shutdown,
    /// The hardware refused to enter the guest: its state is not valid.
    Refused,
    /// Nothing that is handled; the vendor's own number for it.
    Unknown(u64),
}

/// An access to an I/O port. RIP is behind the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoExit {
    /// The port.
    pub port: u16,
    /// Bytes per access: 1, 2 or 4.
    pub size: u8,
    /// IN, as opposed to OUT.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
}
