//! What the host's part in C does for tests. `tests/freebsd-host/calls.c` has the same table.
use core::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};

/// A process.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Process(*mut c_void);

// SAFETY: a handle.
unsafe impl Send for Process {}
// SAFETY: as above.
unsafe impl Sync for Process {}

/// What is in use.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    pub pages: c_long,
    pub wired: c_long,
    pub blocks: c_long,
    pub locks: c_long,
    pub fpu_areas: c_long,
    pub files: c_long,
    pub objects: c_long,
    pub spaces: c_long,
    pub handlers: c_long,
    pub vectors: c_long,
    pub nodes: c_long,
}

/// Linker sets, begin and end of each: metadata, initialisers, and what undoes them.
#[repr(C)]
pub struct Sets(pub [[u64; 2]; 3]);

#[repr(C)]
struct Table {
    start: extern "C" fn(c_ulong),
    load: extern "C" fn(&Sets) -> c_int,
    unload: extern "C" fn() -> c_int,
    shut_down: extern "C" fn() -> c_int,
    process: extern "C" fn() -> Process,
    fork: extern "C" fn(Process) -> Process,
    exec: extern "C" fn(Process),
    exit: extern "C" fn(Process),
    enter: extern "C" fn(Process),
    limit: extern "C" fn(Process, c_ulong),
    open: extern "C" fn(*const c_char) -> c_long,
    close: extern "C" fn(c_int) -> c_long,
    ioctl: extern "C" fn(c_int, c_ulong, c_ulong) -> c_long,
    mmap: extern "C" fn(c_int, c_ulong, c_int, c_ulong) -> c_long,
    munmap: extern "C" fn(c_ulong) -> c_long,
    peek: extern "C" fn(c_ulong, *mut u8, c_ulong) -> c_long,
    poke: extern "C" fn(c_ulong, *const u8, c_ulong) -> c_long,
    alert: extern "C" fn(u32, bool),
    fail_after: extern "C" fn(c_long),
    attempts: extern "C" fn() -> c_long,
    rival: extern "C" fn(bool) -> bool,
    suspend: extern "C" fn(bool),
    counts: *const Counts,
}

/// The calls.
#[derive(Clone, Copy)]
pub struct Calls(&'static Table);

// SAFETY: the table is constant; the calls may come from every CPU.
unsafe impl Sync for Calls {}
// SAFETY: as above.
unsafe impl Send for Calls {}

/// An error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i64);

/// What a call gives: a number that is not negative.
pub type Outcome<T = i64> = Result<T, Errno>;

fn outcome(result: c_long) -> Outcome {
    if result < 0 {
        return Err(Errno(-result));
    }
    Ok(result)
}

fn done(error: c_int) -> Outcome<()> {
    outcome(-c_long::from(error)).map(drop)
}

impl Calls {
    /// The calls in a table.
    ///
    /// # Safety
    ///
    /// It is at that address, and stays.
    pub unsafe fn at(address: u64) -> Self {
        // SAFETY: as the caller promises.
        Self(unsafe { &*(address as *const Table) })
    }

    /// Makes the host ready, with so many frames of memory. Once.
    pub fn start(self, frames: usize) {
        (self.0.start)(frames as u64);
    }

    pub fn load(self, sets: &Sets) -> Outcome<()> {
        done((self.0.load)(sets))
    }

    pub fn unload(self) -> Outcome<()> {
        done((self.0.unload)())
    }

    pub fn shut_down(self) -> Outcome<()> {
        done((self.0.shut_down)())
    }

    pub fn process(self) -> Process {
        (self.0.process)()
    }

    pub fn fork(self, parent: Process) -> Process {
        (self.0.fork)(parent)
    }

    pub fn exec(self, process: Process) {
        (self.0.exec)(process);
    }

    /// None of its threads runs any more.
    pub fn exit(self, process: Process) {
        (self.0.exit)(process);
    }

    /// The thread of this CPU is that process's from now on.
    pub fn enter(self, process: Process) {
        (self.0.enter)(process);
    }

    /// How many bytes a process may lock.
    pub fn limit(self, process: Process, bytes: u64) {
        (self.0.limit)(process, bytes);
    }

    pub fn open(self, name: &CStr) -> Outcome<i32> {
        outcome((self.0.open)(name.as_ptr())).map(|number| number as i32)
    }

    pub fn close(self, descriptor: i32) -> Outcome<()> {
        outcome((self.0.close)(descriptor)).map(drop)
    }

    pub fn ioctl(self, descriptor: i32, command: u64, argument: u64) -> Outcome {
        outcome((self.0.ioctl)(descriptor, command, argument))
    }

    /// Maps memory that can be read and written: a descriptor's or, with -1, zeros.
    pub fn mmap(self, descriptor: i32, size: u64, offset: u64) -> Outcome<u64> {
        const READ_WRITE: c_int = 3;
        outcome((self.0.mmap)(descriptor, size, READ_WRITE, offset)).map(|at| at as u64)
    }

    /// Maps zeros that can only be read.
    pub fn mmap_read_only(self, size: u64) -> Outcome<u64> {
        const READ: c_int = 1;
        outcome((self.0.mmap)(-1, size, READ, 0)).map(|at| at as u64)
    }

    pub fn munmap(self, address: u64) -> Outcome<()> {
        outcome((self.0.munmap)(address)).map(drop)
    }

    /// The process reads its memory.
    pub fn peek(self, from: u64, to: &mut [u8]) -> Outcome<()> {
        outcome((self.0.peek)(from, to.as_mut_ptr(), to.len() as u64)).map(drop)
    }

    /// The process writes to its memory.
    pub fn poke(self, to: u64, from: &[u8]) -> Outcome<()> {
        outcome((self.0.poke)(to, from.as_ptr(), from.len() as u64)).map(drop)
    }

    /// Sends the thread of a CPU a signal.
    pub fn signal(self, cpu: u32) {
        (self.0.alert)(cpu, true);
    }

    /// Asks the thread of a CPU to yield.
    pub fn preempt(self, cpu: u32) {
        (self.0.alert)(cpu, false);
    }

    /// From now on what may fail succeeds so often and then fails; `None`: never fails.
    pub fn fail_after(self, successes: Option<u32>) {
        (self.0.fail_after)(successes.map_or(-1, c_long::from));
    }

    /// How often something could have failed since then.
    pub fn attempts(self) -> u64 {
        (self.0.attempts)() as u64
    }

    /// Another hypervisor is there, or no longer. Says whether one was.
    pub fn rival(self, there: bool) -> bool {
        (self.0.rival)(there)
    }

    /// The machine goes to sleep, or wakes.
    pub fn suspend(self, sleeps: bool) {
        (self.0.suspend)(sleeps);
    }

    pub fn counts(self) -> Counts {
        // SAFETY: a constant place; other CPUs may change it now, which makes no number invalid.
        unsafe { self.0.counts.read_volatile() }
    }
}
