//! Errors as Linux numbers them.
use waterbear_core::Error;
use waterbear_core::abi::Failure;

/// No memory.
pub const ENOMEM: i64 = 12;
/// A signal came first.
pub const EINTR: i64 = 4;
/// No such descriptor.
pub const EBADF: i32 = 9;
/// The same inside the kernel, for calls that begin anew.
pub const ERESTARTSYS: i64 = 512;
/// Memory that failed in hardware.
pub const EHWPOISON: i64 = 133;

/// The number for what the interface refuses.
pub const fn failure(failure: Failure) -> i32 {
    match failure {
        Failure::TooBig => 7,
        Failure::Unknown => 25,
        Failure::Error(error) => errno(error),
    }
}

/// The number that a system call returns, negated, for `error`.
///
/// Source: the kernel's `errno-base.h` and `errno.h`, and "The Definitive KVM
/// (Kernel-based Virtual Machine) API Documentation" for which condition gets
/// which.
pub const fn errno(error: Error) -> i32 {
    match error {
        Error::NotFound => 2,
        Error::Interrupted => 4,
        Error::Dead => 5,
        Error::NoDescriptor => 9,
        Error::Again => 11,
        Error::NoMemory => 12,
        Error::Fault => 14,
        Error::Busy => 16,
        Error::Exists => 17,
        Error::Invalid => 22,
        Error::Full => 28,
        Error::NotSupported => 95,
        Error::Poisoned => 133,
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_system_headers() {
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
            assert_eq!(errno(error), number, "{error:?}");
        }
        assert_eq!(failure(Failure::Unknown), libc::ENOTTY);
        assert_eq!(failure(Failure::TooBig), libc::E2BIG);
        let kernels = [
            (ENOMEM, libc::ENOMEM),
            (EINTR, libc::EINTR),
            (EBADF.into(), libc::EBADF),
            (EHWPOISON, libc::EHWPOISON),
        ];
        for (ours, number) in kernels {
            assert_eq!(ours, i64::from(number));
        }
    }
}
