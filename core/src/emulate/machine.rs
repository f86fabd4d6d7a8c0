//! What an emulated instruction needs from its surroundings.
use crate::Error;
use crate::arch::{Cr0, Cr4, Efer, Exception, Segment, SegmentName};
use crate::regs::Regs;

/// Why an instruction did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It raises an exception, with RIP still at the instruction.
    Exception(Exception),
    /// A device has to answer first. When it has, the instruction is executed again.
    Device,
    /// Something changed at the same time. The instruction is to be executed again, by the guest or
    /// here.
    Retry,
    /// It is not one that is emulated.
    Unsupported,
    /// Something is wrong outside the guest.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The instruction: RIP is behind it and RF is clear.
    Retired,
    /// An iteration, or several, of a repeated string instruction. RIP is at it still; it goes on
    /// when it is executed again, by the guest or here, and may be interrupted before.
    Repeats,
}

/// What a read is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The program reads.
    Read,
    /// The program reads, and the same operand is written next: the read raises what the write
    /// would raise.
    Modify,
    /// Nothing is read: the call raises what a write would raise, and no device hears of it.
    Probe,
    /// The CPU reads for itself, with the supervisor's rights whatever the privilege level is.
    System,
}

/// The CPU and the memory of an emulated instruction.
///
/// Addresses are linear, behind segmentation; paging and what lies behind it are the machine's. An
/// operand has 1 to 16 bytes and may cross a page: [`pieces`](super::pieces()) says where. One that
/// crosses is read or written as a whole or not at all.
///
/// # What can be relied on
///
/// An instruction, or one iteration of a repeated one, reads first, in an order that depends on
/// nothing but the instruction and the registers. Then it makes at most one
/// [`write`](Machine::write), [`compare_exchange`](Machine::compare_exchange) or
/// [`port_out`](Machine::port_out). That is the last call that can fail; after it the registers
/// change through [`regs`](Machine::regs). So an instruction that stops has changed nothing, and
/// one that is executed again asks the same questions: a machine whose devices answer later keeps
/// the answers it has, in order ([`Devices`](super::Devices)), and one whose devices are written
/// later keeps the data and passes it on when the instruction has happened.
pub trait Machine {
    /// Whether the vector registers are in reach: otherwise no instruction that moves one is
    /// executed.
    const HAS_VECTORS: bool = false;

    /// The registers.
    fn regs(&mut self) -> &mut Regs;

    /// A segment register.
    fn segment(&mut self, name: SegmentName) -> Segment;

    /// CR0.
    fn cr0(&mut self) -> Cr0;

    /// CR4.
    fn cr4(&mut self) -> Cr4;

    /// EFER.
    fn efer(&mut self) -> Efer;

    /// The current privilege level, 0 to 3.
    fn cpl(&mut self) -> u8;

    /// Reads an operand.
    ///
    /// # Errors
    ///
    /// [`Stop::Exception`] with a page fault, as the access and the privilege level demand;
    /// [`Stop::Device`] where a device must answer first; [`Stop::Retry`]; [`Stop::Failed`].
    fn read(&mut self, linear: u64, data: &mut [u8], access: Access) -> Result<(), Stop>;

    /// Writes an operand. A device gets it after the instruction.
    ///
    /// # Errors
    ///
    /// As for [`read`](Machine::read), and nothing is written.
    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop>;

    /// Writes `new` where `old` is, in one step as far as others can see; says whether `old` was
    /// there. Both are of the same length. It has been read before with [`Access::Modify`].
    /// At a device, and where the operand is no multiple of its size, this is a plain write.
    ///
    /// # Errors
    ///
    /// As for [`write`](Machine::write); [`Stop::Unsupported`] where 16 bytes cannot be written in
    /// one step.
    fn compare_exchange(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop>;

    /// Reads 1, 2 or 4 bytes from a port that the program may use.
    ///
    /// # Errors
    ///
    /// [`Stop::Device`] where a device must answer first; [`Stop::Retry`]; [`Stop::Failed`].
    fn port_in(&mut self, port: u16, data: &mut [u8]) -> Result<(), Stop>;

    /// Writes 1, 2 or 4 bytes to a port that the program may use. A device gets it after the
    /// instruction.
    ///
    /// # Errors
    ///
    /// [`Stop::Retry`]; [`Stop::Failed`].
    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop>;

    /// Whether another iteration of a repeated string instruction may follow in the same call. Not
    /// while a device's part of the last one is to be done, nor when an interrupt or a signal
    /// waits.
    fn again(&mut self) -> bool {
        false
    }

    /// Whether the guest's CPU has it.
    fn has(&mut self, _feature: Feature) -> bool {
        true
    }

    /// An XMM register.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] where they are out of reach.
    fn vector(&mut self, _number: u8) -> Result<[u64; 2], Stop> {
        Err(Stop::Unsupported)
    }

    /// Sets an XMM register; the rest of the YMM register stays.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] where they are out of reach.
    fn set_vector(&mut self, _number: u8, _value: [u64; 2]) -> Result<(), Stop> {
        Err(Stop::Unsupported)
    }
}

/// A feature that changes what bytes mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// MOVBE.
    Movbe,
    /// POPCNT.
    Popcnt,
    /// LZCNT; BSR without it.
    Lzcnt,
    /// TZCNT (BMI1); BSF without it.
    Tzcnt,
}
