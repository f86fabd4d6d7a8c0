//! The operating system's calls, each behind a safe function.
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::VolatileSlice;

/// The signal that makes a thread look up from its guest.
const KICK: i32 = libc::SIGUSR1;

/// Opens a device node.
///
/// # Errors
///
/// The system's.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open(path)?.into())
}

/// An ioctl whose argument is a number, or the address of something that lives as long as the call
/// and is of the type that the command says.
///
/// # Errors
///
/// The system's.
pub fn ioctl(fd: &impl AsRawFd, command: u32, argument: u64) -> io::Result<i32> {
    // SAFETY: the kernel checks every argument; those that are addresses are of live values.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number(command), argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A command as this system numbers it.
#[cfg(not(target_os = "freebsd"))]
fn number(command: u32) -> u64 {
    command.into()
}

/// A command as this system numbers it.
#[cfg(target_os = "freebsd")]
use freebsd::number;

/// FreeBSD copies an argument by what a command's number says of it, so there the numbers say that
/// there is nothing to copy. `waterbear/kvm.h` has the same for C.
#[cfg(any(test, target_os = "freebsd"))]
mod freebsd {
    use waterbear_core::abi::kvm::{KVM_GET_PIT2, KVM_SET_PIT2};

    /// A command whose number says that there is nothing to copy. Source: ioctl(2).
    const VOID: u64 = 0x2000_0000;
    /// Where a command's direction is; FreeBSD has it in the group.
    const DIRECTION: u32 = 30;
    const GROUP: u32 = 8;

    /// The number that FreeBSD has for a command of the public header.
    pub fn number(command: u32) -> u64 {
        // Two share number and direction with others.
        let second = matches!(command, KVM_GET_PIT2 | KVM_SET_PIT2);
        let group = (command >> DIRECTION) + if second { 4 } else { 0 };
        VOID | u64::from((command & 0xffff) + (group << GROUP))
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_numbers_are_those_that_the_module_takes() {
            for (theirs, command) in waterbear_freebsd::commands::COMMANDS {
                assert_eq!(super::number(command), theirs, "{command:#x}");
            }
        }
    }
}

/// A descriptor that an ioctl has returned.
#[must_use]
pub fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A value made of integers, all 0.
pub(crate) fn zeroed<T: Copy>() -> T {
    // SAFETY: the types of the interface are made of integers.
    unsafe { std::mem::zeroed() }
}

/// Memory of this process that a guest or the kernel writes too. It is only touched with volatile
/// accesses.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    size: usize,
}

// SAFETY: every access is volatile, for others change the memory anyway.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// That many bytes, all 0, in whole pages.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(size: usize) -> io::Result<Self> {
        Self::map(size, libc::MAP_PRIVATE | libc::MAP_ANON, -1)
    }

    /// What a descriptor shares.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn of(fd: &impl AsRawFd, size: usize) -> io::Result<Self> {
        Self::map(size, libc::MAP_SHARED, fd.as_raw_fd())
    }

    fn map(size: usize, flags: i32, fd: i32) -> io::Result<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, rights, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast();
        Ok(Self { start, size })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Copies bytes out, as far as there are any.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        for (at, byte) in (offset..self.size).zip(into) {
            // SAFETY: inside of the mapping.
            *byte = unsafe { self.start.wrapping_add(at).read_volatile() };
        }
    }

    /// Copies bytes in, as far as there is room.
    pub fn write(&self, offset: usize, from: &[u8]) {
        for (at, byte) in (offset..self.size).zip(from) {
            // SAFETY: inside of the mapping.
            unsafe { self.start.wrapping_add(at).write_volatile(*byte) }
        }
    }

    /// The whole of it.
    #[must_use]
    pub fn slice(&self) -> VolatileSlice<'_> {
        // SAFETY: so many bytes, as long as `self` lives, and everybody's accesses are volatile.
        unsafe { VolatileSlice::new(self.start, self.size) }
    }

    /// A word, read at once.
    #[must_use]
    pub fn word(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < self.size);
        // SAFETY: inside of the mapping, and aligned.
        unsafe {
            self.start
                .wrapping_add(offset)
                .cast::<u32>()
                .read_volatile()
        }
    }

    /// Sets a word at once.
    pub fn set_word(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < self.size);
        // SAFETY: inside of the mapping, and aligned.
        unsafe {
            self.start
                .wrapping_add(offset)
                .cast::<u32>()
                .write_volatile(value)
        }
    }

    /// Makes the kernel change how the memory is mapped, while everything in it stays as it is.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn disturb(&self) -> io::Result<()> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        for rights in [rights | libc::PROT_EXEC, rights] {
            // SAFETY: our mapping, and whoever uses it keeps the rights that it needs.
            if unsafe { libc::mprotect(self.start.cast(), self.size, rights) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: from `mmap`, and nobody has it any more.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}

extern "C" fn nothing(_signal: i32) {}

/// Makes this process ready to [`kick`](Home::kick) its threads.
pub fn listen() {
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the handler does nothing, so it may run anywhere.
    unsafe { libc::sigaction(KICK, &raw const action, ptr::null_mut()) };
}

/// Where a thread can be reached while it is at home.
#[derive(Debug, Default)]
pub struct Home(Mutex<Option<libc::pthread_t>>);

/// The calling thread is at home as long as this lives.
#[derive(Debug)]
pub struct AtHome<'a>(&'a Home);

impl Home {
    /// Lets the calling thread be reached.
    pub fn enter(&self) -> AtHome<'_> {
        // SAFETY: has no conditions.
        *self.lock() = Some(unsafe { libc::pthread_self() });
        AtHome(self)
    }

    /// Makes the thread that is at home, if one is, come out of the guest that it runs.
    pub fn kick(&self) {
        let thread = self.lock();
        if let Some(thread) = *thread {
            // SAFETY: it has not ended, for it leaves its home before, under the lock.
            unsafe { libc::pthread_kill(thread, KICK) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<libc::pthread_t>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtHome<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
