//! Bells: how the kernel tells a process that something has happened, without a way back to it.
use crate::memory::AllocError;

/// Why a descriptor gives no bell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BellError {
    /// The process has no such descriptor.
    NoDescriptor,
    /// It is one of something else.
    NotABell,
    /// There is no memory.
    NoMemory,
}

impl From<AllocError> for BellError {
    fn from(_: AllocError) -> Self {
        BellError::NoMemory
    }
}

/// A reference to an object of the owner's that can be rung; dropping it gives the reference back.
/// The object outlives the descriptor by which it was found.
///
/// Linux: `eventfd_ctx`. FreeBSD: the file of an eventfd.
pub trait Bell: Send + Sync + Sized {
    /// Rings: adds one to the object's count and wakes who waits for it. Does not sleep; any
    /// context with interrupts on.
    ///
    /// Linux: `eventfd_signal`. FreeBSD, after 15.0: `eventfd_signal`.
    fn ring(&self);

    /// Whether both are the same object.
    fn is(&self, other: &Self) -> bool;
}

/// The bell of hosts that have none: there is no value of it.
pub enum NoBell {}

impl Bell for NoBell {
    fn ring(&self) {}

    fn is(&self, _other: &Self) -> bool {
        false
    }
}
