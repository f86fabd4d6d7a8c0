//! Why a vCPU came back to its owner.
use waterbear_hal::Gpa;

/// Why [`GuestCpu::run`](super::GuestCpu::run) returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// The guest accesses a port. [`GuestCpu::data`](super::GuestCpu::data) has what it writes, or
    /// gets what it reads; the next run completes it.
    Io {
        /// The port.
        port: u16,
        /// Bytes per access: 1, 2 or 4.
        size: u8,
        /// The guest reads.
        input: bool,
        /// How many accesses, one after another in the data.
        count: u32,
    },
    /// The guest accesses memory that is not there. The data are as for [`Io`](Leave::Io).
    Mmio {
        /// The address.
        gpa: Gpa,
        /// Bytes: 1 to 8.
        size: u8,
        /// The guest writes.
        write: bool,
    },
    /// HLT. RIP is behind it.
    Halted,
    /// The guest shut down: a triple fault.
    Shutdown,
    /// The hardware refused the guest's state; the vendor's number.
    EntryFailed(u64),
    /// An instruction that nobody can emulate. The data are its bytes, as many as are known.
    EmulationFailed,
    /// A signal waits, or the owner wanted to come back at once.
    Interrupted,
    /// The guest can take an interrupt now, and the owner wanted to know.
    InterruptWindow,
    /// The guest lowered CR8.
    TaskPriority,
    /// The hardware left the guest for a reason that is not handled; the vendor's number.
    Unknown(u64),
}
