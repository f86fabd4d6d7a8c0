//! What can go wrong, before a port turns it into a number.
use waterbear_hal::{AllocError, BellError, Gpa, ResolveError};

/// Why an operation did not happen. Whoever returns one has changed nothing.
///
/// The names follow the conditions that the KVM interface documents. Only a
/// port knows the numbers, because they differ between operating systems.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// An argument is out of range or contradicts another (EINVAL).
    Invalid,
    /// It is there already (EEXIST).
    Exists,
    /// There is no such thing (ENOENT).
    NotFound,
    /// There is no memory (ENOMEM).
    NoMemory,
    /// An address of the user's, or the guest's, leads nowhere (EFAULT).
    Fault,
    /// Memory that failed in hardware (EHWPOISON).
    Poisoned,
    /// Not now; the same call may succeed later (EAGAIN).
    Again,
    /// A signal came first (EINTR).
    Interrupted,
    /// Somebody else has it (EBUSY).
    Busy,
    /// This machine cannot do it (EOPNOTSUPP).
    NotSupported,
    /// The VM is dead (EIO).
    Dead,
    /// There is no such descriptor (EBADF).
    NoDescriptor,
    /// There are as many as there may be (ENOSPC).
    Full,
}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        Error::NoMemory
    }
}

impl From<allocator_api2::alloc::AllocError> for Error {
    fn from(_: allocator_api2::alloc::AllocError) -> Self {
        Error::NoMemory
    }
}

impl From<allocator_api2::collections::TryReserveError> for Error {
    fn from(_: allocator_api2::collections::TryReserveError) -> Self {
        Error::NoMemory
    }
}

impl From<ResolveError> for Error {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Fault => Error::Fault,
            ResolveError::Poisoned => Error::Poisoned,
            ResolveError::Interrupted => Error::Interrupted,
            ResolveError::NoMemory => Error::NoMemory,
        }
    }
}

impl From<BellError> for Error {
    fn from(error: BellError) -> Self {
        match error {
            BellError::NoDescriptor => Error::NoDescriptor,
            BellError::NotABell => Error::Invalid,
            BellError::NoMemory => Error::NoMemory,
        }
    }
}

/// Why guest memory was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// There is no memory at this address, the first of the access without
    /// any: it is for a device. Nothing was read or written.
    Missing(Gpa),
    /// The guest cannot write at this address, the first such of the access:
    /// the write is for a device. Nothing was written.
    ReadOnly(Gpa),
    /// The host could not: see
    /// [`read_guest`](crate::vm::Vm::read_guest) and
    /// [`write_guest`](crate::vm::Vm::write_guest).
    Host(Error),
}

impl From<Error> for MemoryError {
    fn from(error: Error) -> Self {
        MemoryError::Host(error)
    }
}

impl From<ResolveError> for MemoryError {
    fn from(error: ResolveError) -> Self {
        MemoryError::Host(error.into())
    }
}
