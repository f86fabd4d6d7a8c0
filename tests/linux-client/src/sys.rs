//! System calls, each behind a safe function.
use std::ffi::{CString, c_long, c_void};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// The number of the last error.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The result of a system call, or its error number.
fn checked(result: c_long) -> Result<c_long, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Mounts what a machine needs and shows the console as it is written.
pub fn prepare_machine() {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let _ = std::fs::create_dir_all(at);
        mount(kind, at);
    }
}

/// Mounts one of the kernel's own file systems.
pub fn mount(kind: &str, at: &str) {
    let (kind, at) = (c_string(kind), c_string(at));
    // SAFETY: the strings end and outlive the call.
    unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
}

/// Switches the machine off.
pub fn power_off() -> ! {
    // What was said may still be on its way down a slow line.
    // SAFETY: no memory is involved.
    unsafe { libc::tcdrain(libc::STDOUT_FILENO) };
    // SAFETY: as above.
    unsafe { libc::sync() };
    // SAFETY: as above.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(1)
}

/// An ioctl with a number as its argument.
pub fn ioctl(fd: &impl AsRawFd, command: u32, argument: u64) -> Result<i32, i32> {
    ioctl_long(fd, u64::from(command), argument)
}

/// An ioctl with a command of 64 bits, as some callers extend its sign.
pub fn ioctl_long(fd: &impl AsRawFd, command: u64, argument: u64) -> Result<i32, i32> {
    // SAFETY: the kernel checks every argument; those that point to memory of
    // this process point to live values of the right type, or are to be
    // refused.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), command, argument) };
    checked(result).map(|value| value as i32)
}

/// An ioctl whose argument is a structure.
pub fn ioctl_with<T>(fd: &impl AsRawFd, command: u32, argument: &T) -> Result<i32, i32> {
    ioctl(fd, command, ptr::from_ref(argument) as u64)
}

/// A descriptor that an ioctl has returned.
pub fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a module.
pub fn load(path: &str, parameters: &str) -> Result<(), i32> {
    let file = File::open(path).map_err(|_| libc::ENOENT)?;
    let parameters = c_string(parameters);
    // SAFETY: the string ends and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    checked(result).map(drop)
}

/// Unloads a module, if nobody uses it.
pub fn unload(name: &str) -> Result<(), i32> {
    let name = c_string(name);
    // SAFETY: the string ends and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    checked(result).map(drop)
}

/// Runs `child` in a process of its own, which ends with the returned status.
pub fn fork(child: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: the C library keeps its own state whole, and of what other threads may have left
    // half done the child uses nothing.
    match unsafe { libc::fork() } {
        0 => {
            let status = child();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(status) }
        }
        pid => checked(pid.into()).map(|pid| pid as i32),
    }
}

/// Waits for a child and returns its status: below 256 its own, above that a
/// signal.
pub fn wait(pid: i32) -> Result<i32, i32> {
    let mut status = 0;
    // SAFETY: the status is ours.
    checked(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into())?;
    Ok(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        256 + libc::WTERMSIG(status)
    })
}

/// Kills a child.
pub fn kill(pid: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Keeps this process, and those that it starts, on the CPUs whose bits are set.
pub fn stay_on_cpus(cpus: u64) -> Result<(), String> {
    // SAFETY: the kernel reads eight bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of::<u64>(),
            &raw const cpus,
        )
    };
    checked(result)
        .map(drop)
        .map_err(|error| format!("CPUs {cpus:#x}: error {error}"))
}

/// Signals as the kernel counts them: bit 0 is the first.
fn signals(mask: u64) -> libc::sigset_t {
    // SAFETY: integers.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        if mask >> (signal - 1) & 1 != 0 {
            // SAFETY: the set is ours.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
    }
    set
}

/// The signals of a set as bits.
fn bits(set: &libc::sigset_t) -> u64 {
    (1..=64).fold(0, |bits, signal| {
        // SAFETY: the set is ours.
        let member = unsafe { libc::sigismember(set, signal) } == 1;
        bits | u64::from(member) << (signal - 1)
    })
}

/// Blocks the signals of a mask and no others; returns those that were blocked.
pub fn block_signals(mask: u64) -> u64 {
    let (new, mut old) = (signals(mask), signals(0));
    // SAFETY: both sets are ours.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const new, &raw mut old) };
    bits(&old)
}

/// The signals that wait.
pub fn waiting_signals() -> u64 {
    let mut set = signals(0);
    // SAFETY: the set is ours.
    unsafe { libc::sigpending(&raw mut set) };
    bits(&set)
}

/// Sends this thread a signal.
pub fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::raise(signal) };
}

/// Takes one of the signals that wait, without its handler.
pub fn take_signal(mask: u64) -> Result<i32, i32> {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let set = signals(mask);
    // SAFETY: all of it is ours.
    let taken = unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const now) };
    checked(taken.into()).map(|signal| signal as i32)
}

extern "C" fn nothing(_signal: i32) {}

/// Has a signal handled; the handler may run anywhere.
pub fn on_signal(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: integers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    // SAFETY: as the caller says.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// Sends this process a signal in so many milliseconds.
pub fn alarm_in(milliseconds: i64) {
    alarm(milliseconds, 0);
}

/// Sends this process a signal every so many milliseconds.
pub fn alarm_every(milliseconds: i64) {
    alarm(milliseconds, milliseconds);
}

fn alarm(first: i64, next: i64) {
    on_signal(libc::SIGALRM, nothing);
    let time = |milliseconds: i64| libc::timeval {
        tv_sec: 0,
        tv_usec: milliseconds * 1000,
    };
    let timer = libc::itimerval {
        it_interval: time(next),
        it_value: time(first),
    };
    // SAFETY: the timer lives as long as the call.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
}

/// Memory of this process.
pub struct Mapping {
    start: *mut c_void,
    size: usize,
}

impl Mapping {
    /// That many bytes of fresh memory.
    pub fn new(size: usize) -> Self {
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "no memory");
        Self { start, size }
    }

    /// Addresses without memory.
    pub fn reserved(size: usize) -> Result<Self, String> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        Self::made(start, size)
    }

    /// Fresh memory that children share, in place of what the process has there.
    pub fn shared_at(address: u64, size: usize) -> Result<Self, String> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the caller has addresses there that nobody refers to.
        let start = unsafe { libc::mmap(address as *mut c_void, size, rights, flags, -1, 0) };
        Self::made(start, size)
    }

    fn made(start: *mut c_void, size: usize) -> Result<Self, String> {
        if start == libc::MAP_FAILED {
            return Err(format!("no mapping: error {}", errno()));
        }
        Ok(Self { start, size })
    }

    /// Fresh memory below 4 GiB.
    pub fn low(size: usize) -> Option<Self> {
        // SAFETY: a new mapping, somewhere there.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        (start != libc::MAP_FAILED).then_some(Self { start, size })
    }

    /// What a descriptor maps.
    pub fn of(fd: &impl AsRawFd, size: usize) -> Result<Self, String> {
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        Self::made(start, size)
    }

    /// A part of it, which stays part of it.
    pub fn part(&self, offset: usize, size: usize) -> ManuallyDrop<Self> {
        assert!(offset + size <= self.size);
        let start = self.start.wrapping_byte_add(offset);
        ManuallyDrop::new(Self { start, size })
    }

    /// Reads a value at `offset`, while others may write there.
    pub fn read<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.size);
        let at = self.start.wrapping_byte_add(offset).cast::<T>();
        assert!(at.is_aligned());
        // SAFETY: in bounds, aligned; the types are integers.
        unsafe { at.read_volatile() }
    }

    /// Writes bytes from `offset` on, while others may read there.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.size);
        for (index, byte) in bytes.iter().enumerate() {
            let at = self.start.cast::<u8>().wrapping_add(offset + index);
            // SAFETY: in bounds.
            unsafe { at.write_volatile(*byte) }
        }
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Writes a byte to every page.
    pub fn touch(&self, byte: u8) {
        for offset in (0..self.size).step_by(4096) {
            // SAFETY: in bounds.
            let at = unsafe { self.start.cast::<u8>().add(offset) };
            // SAFETY: ours, and nobody else reads it as Rust memory.
            unsafe { at.write_volatile(byte) }
        }
    }

    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Gives advice about all of it.
    pub fn advise(&self, advice: i32) -> Result<(), i32> {
        // SAFETY: our mapping, to whose content nobody refers.
        checked(unsafe { libc::madvise(self.start, self.size, advice) }.into()).map(drop)
    }

    /// Changes its rights.
    pub fn protect(&self, rights: i32) -> Result<(), i32> {
        // SAFETY: as above.
        checked(unsafe { libc::mprotect(self.start, self.size, rights) }.into()).map(drop)
    }
}

// SAFETY: the memory is only touched with volatile accesses, for others change it anyway.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`; nobody refers to it.
        unsafe { libc::munmap(self.start, self.size) };
    }
}
