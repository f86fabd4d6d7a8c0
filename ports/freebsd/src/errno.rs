//! Errors as FreeBSD numbers them.
use waterbear_core::Error;
use waterbear_core::abi::Failure;

/// The number for what the interface refuses.
pub const fn failure(failure: Failure) -> i32 {
    match failure {
        Failure::TooBig => 7,
        Failure::Unknown => 25,
        Failure::Error(error) => errno(error),
    }
}

/// The number that a device method returns for `error`.
///
/// FreeBSD has no number for memory that failed in hardware; EFAULT is what a
/// process gets that touches such memory by a system call. Source: errno(2).
pub const fn errno(error: Error) -> i32 {
    match error {
        Error::NotFound => 2,
        Error::Interrupted => 4,
        Error::Dead => 5,
        Error::NoDescriptor => 9,
        Error::NoMemory => 12,
        Error::Fault | Error::Poisoned => 14,
        Error::Busy => 16,
        Error::Exists => 17,
        Error::Invalid => 22,
        Error::Full => 28,
        Error::Again => 35,
        Error::NotSupported => 45,
    }
}
