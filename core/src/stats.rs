//! What is counted of a VM and its vCPUs.
//!
//! A vCPU's counts are written by the thread that runs it and nobody else, in cache lines of their
//! own, so counting is a plain addition; others may look at any time.
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted of a vCPU. The first ones are why it left the guest: each time one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// It touched memory that was not mapped for it.
    Fault,
    /// The same, and it was mapped before the guest's state was out of the CPU.
    FastFault,
    /// It touched memory that is known not to be there.
    MmioFault,
    /// The host was interrupted.
    Interrupt,
    /// It can take an interrupt or an NMI that waits.
    Window,
    /// An exception.
    Exception,
    /// CPUID.
    Cpuid,
    /// RDMSR and WRMSR.
    Msr,
    /// An access to a port.
    Io,
    /// HLT.
    Halt,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// An access to a control or a debug register.
    Register,
    /// Anything else.
    Other,
    /// Accesses to memory that is not there for which the owner was asked.
    Mmio,
    /// Instructions that were executed in the kernel.
    Emulation,
    /// Those that could not be.
    EmulationFailed,
    /// Runs that a signal ended, or that came back at once.
    Signal,
}

/// How many of them are reasons to leave the guest.
pub const REASONS: usize = Count::Other as usize + 1;
/// How many there are.
pub const COUNTS: usize = Count::Signal as usize + 1;

/// The counts of a vCPU.
#[repr(align(64))]
pub struct VcpuStats {
    counts: [AtomicU64; COUNTS],
}

impl VcpuStats {
    /// Nothing has happened.
    pub const fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; COUNTS],
        }
    }

    /// Counts one. Only the vCPU's thread does.
    #[inline(always)]
    pub fn add(&self, count: Count) {
        if let Some(count) = self.counts.get(count as usize) {
            let value = count.load(Ordering::Relaxed).wrapping_add(1);
            count.store(value, Ordering::Relaxed);
        }
    }

    /// How many there were. Any thread.
    pub fn get(&self, count: Count) -> u64 {
        self.at(count as usize)
    }

    /// The same by number.
    pub fn at(&self, number: usize) -> u64 {
        let count = self.counts.get(number);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How often the guest was left.
    pub fn exits(&self) -> u64 {
        (0..REASONS).fold(0, |sum, number| sum.wrapping_add(self.at(number)))
    }
}

impl Default for VcpuStats {
    fn default() -> Self {
        Self::new()
    }
}
