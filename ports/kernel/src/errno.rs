//! Errors as numbers.
use core::ffi::c_int;

use waterbear_core::Error;
use waterbear_core::abi::Failure;

/// No memory.
pub const ENOMEM: c_int = 12;
/// A signal came first.
pub const EINTR: c_int = 4;
/// No such descriptor.
pub const EBADF: c_int = 9;
/// A signal came first, as Linux says inside of calls that begin anew.
pub const ERESTARTSYS: c_int = 512;
/// Memory that failed in hardware, on Linux.
pub const EHWPOISON: c_int = 133;

/// The errors whose numbers are not the same everywhere. `struct wb_numbers`.
#[repr(C)]
pub struct Numbers {
    /// [`Error::Again`].
    pub again: c_int,
    /// [`Error::NotSupported`].
    pub not_supported: c_int,
    /// [`Error::Poisoned`].
    pub poisoned: c_int,
}

/// The number of `error`, on a kernel with these numbers.
///
/// Source: the manual pages errno(3) of Linux and errno(2) of FreeBSD, and "The
/// Definitive KVM (Kernel-based Virtual Machine) API Documentation" for which
/// condition gets which.
pub fn errno(error: Error, numbers: &Numbers) -> c_int {
    match error {
        Error::NotFound => 2,
        Error::Interrupted => EINTR,
        Error::Dead => 5,
        Error::NoDescriptor => EBADF,
        Error::NoMemory => ENOMEM,
        Error::Fault => 14,
        Error::Busy => 16,
        Error::Exists => 17,
        Error::Invalid => 22,
        Error::Full => 28,
        Error::Again => numbers.again,
        Error::NotSupported => numbers.not_supported,
        Error::Poisoned => numbers.poisoned,
    }
}

/// The number for what the interface refuses.
pub fn failure(failure: Failure, numbers: &Numbers) -> c_int {
    match failure {
        Failure::TooBig => 7,
        Failure::Unknown => 25,
        Failure::Error(error) => errno(error, numbers),
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_system_headers() {
        let numbers = Numbers {
            again: libc::EAGAIN,
            not_supported: libc::EOPNOTSUPP,
            poisoned: libc::EHWPOISON,
        };
        let wanted = [
            (Error::NotFound, libc::ENOENT),
            (Error::Interrupted, libc::EINTR),
            (Error::Dead, libc::EIO),
            (Error::Again, libc::EAGAIN),
            (Error::NoMemory, libc::ENOMEM),
            (Error::Fault, libc::EFAULT),
            (Error::Busy, libc::EBUSY),
            (Error::Exists, libc::EEXIST),
            (Error::Invalid, libc::EINVAL),
            (Error::NotSupported, libc::EOPNOTSUPP),
            (Error::NoDescriptor, libc::EBADF),
            (Error::Full, libc::ENOSPC),
            (Error::Poisoned, libc::EHWPOISON),
        ];
        for (error, number) in wanted {
            assert_eq!(errno(error, &numbers), number, "{error:?}");
        }
        assert_eq!(failure(Failure::Unknown, &numbers), libc::ENOTTY);
        assert_eq!(failure(Failure::TooBig, &numbers), libc::E2BIG);
        assert_eq!(EHWPOISON, libc::EHWPOISON);
    }
}
