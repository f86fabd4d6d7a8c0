//! What an operating system must provide to host Waterbear.
//!
//! The hypervisor's core is written once and knows no operating system. It
//! reaches its host through the eight small traits of this crate, and [`Hal`]
//! is their sum. A port implements them, mostly one kernel call per method;
//! the mock host implements them for the tests.
//!
//! | trait | what it is for |
//! |---|---|
//! | [`Memory`] | page-table pages and zeroed heap memory, both fallible |
//! | [`Rcu`] | read sections that never sleep, and ones that may |
//! | [`Lock`] | mutexes and a spinning reader-writer lock, each with a class |
//! | [`Cpu`] | which CPU this is, interrupts, kicks, calls on CPUs, sleeping |
//! | [`Fpu`] | keeping a guest's FPU state apart from the host's |
//! | [`User`] | user addresses to page frames and to bytes, descriptors to bells |
//! | [`Time`] | clocks |
//! | [`Log`] | the kernel log |
//!
//! Every item says what it costs its caller: whether it may sleep, whether
//! interrupts may be off, who owns what it returns, and each error. It also
//! names what implements it on Linux 6.1 and on FreeBSD 15, because an item
//! that only one of them can provide does not belong here.
//!
//! An item exists only when `core` or a vendor crate calls it.
#![cfg_attr(not(loom), no_std)]

pub mod addr;
pub mod bell;
pub mod cpu;
pub mod fpu;
pub mod lock;
pub mod log;
pub mod memory;
pub mod rcu;
pub mod sync;
pub mod time;
pub mod user;

pub use addr::{Gfn, Gpa, Hpa, Hva, Level, Pfn};
pub use bell::{Bell, BellError, NoBell};
pub use cpu::{Cpu, CpuId, CpuSet, IrqOff, Pinned, WaitQueue};
pub use fpu::Fpu;
pub use lock::{Lock, LockClass, LockKind, RawMutex, RawRwLock};
pub use log::{Log, Word, Words};
pub use memory::{AllocError, Memory, PageTable};
pub use rcu::{Rcu, RcuGuard, Srcu};
pub use time::Time;
pub use user::{HostPage, ResolveError, User, Width};

/// How a function written in assembly returns: a host whose kernel has a mitigation in place of
/// every return gets a jump there, and no host gets a return that the CPU could run past.
#[cfg(waterbear_return_thunk)]
#[macro_export]
macro_rules! return_instruction {
    () => {
        "jmp __x86_return_thunk"
    };
}

/// How a function written in assembly returns: a host whose kernel has a mitigation in place of
/// every return gets a jump there, and no host gets a return that the CPU could run past.
#[cfg(not(waterbear_return_thunk))]
#[macro_export]
macro_rules! return_instruction {
    () => {
        "ret; int3"
    };
}

/// A complete host.
///
/// A value of this type is a handle: cheap to clone and, in a kernel, of size
/// zero. The mock's handle refers to one simulated machine, so that tests can
/// run beside each other.
pub trait Hal:
    Memory + Rcu + Lock + Cpu + Fpu + User + Time + Log + Clone + Send + Sync + 'static
{
}
impl<T: Memory + Rcu + Lock + Cpu + Fpu + User + Time + Log + Clone + Send + Sync + 'static> Hal
    for T
{
}
