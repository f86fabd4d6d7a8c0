//! Simulated paging hardware, written from the manuals and not from the core.
//!
//! [`Format`] knows what entries mean, [`Walker`] walks tables and sets
//! accessed and dirty bits, [`Tlb`] remembers what it saw until it is flushed.
//! Sources: Intel SDM, "The Extended Page Table Mechanism"; AMD APM, "Nested
//! Paging" and "Long-Mode Page Translation".
//!
//! The walker reads through [`EntryMemory`]: live memory of a
//! [`Mock`](crate::Mock), or a [`Moment`](crate::Moment) of a recording.

mod format;
mod memory;
mod tlb;
mod walk;

pub use format::{Decoded, Format, RawLeaf};
pub use memory::EntryMemory;
pub use tlb::Tlb;
pub use walk::{Fault, FaultKind, Start, Translation, Walker};

/// What an access needs, or what a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Data reads.
    pub read: bool,
    /// Data writes.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
}

impl Access {
    /// A data read.
    pub const READ: Self = Self::new(true, false, false);
    /// A data write.
    pub const WRITE: Self = Self::new(false, true, false);
    /// An instruction fetch.
    pub const EXEC: Self = Self::new(false, false, true);
    /// Everything.
    pub const ALL: Self = Self::new(true, true, true);
    /// Nothing.
    pub const NONE: Self = Self::new(false, false, false);

    /// The three rights.
    pub const fn new(read: bool, write: bool, exec: bool) -> Self {
        Self { read, write, exec }
    }

    /// What both allow.
    pub const fn and(self, other: Self) -> Self {
        Self::new(
            self.read && other.read,
            self.write && other.write,
            self.exec && other.exec,
        )
    }

    /// Whether everything that is `wanted` is allowed.
    pub const fn allows(self, wanted: Self) -> bool {
        (self.read || !wanted.read) && (self.write || !wanted.write) && (self.exec || !wanted.exec)
    }
}
