//! A deterministic host for Waterbear's tests.
//!
//! [`Mock`] is one simulated machine: memory, CPUs, locks, user memory, a log.
//! It implements every trait of the HAL, so the core runs on it unchanged, and
//! it watches what the core does. A rule that is broken is a panic that names
//! the rule. Machines share nothing, so tests run beside each other.
//!
//! What it finds:
//! - page tables that are used after they were freed (freed ones are poisoned
//!   and reused last), freed twice, or never freed ([`Mock::assert_no_leaks`]);
//! - locks taken against their ranks, and sleeping, allocating or waiting
//!   where that is not allowed;
//! - paths that forget what to do when memory runs out
//!   ([`Mock::fail_nth_alloc`]);
//! - moments in which a half-done change is visible ([`Mock::record`]);
//! - flushes that are missing: [`hw`] has a page walker and a TLB, written from
//!   the manuals and not from the core;
//! - writes of a guest to memory that the host has taken back
//!   ([`Mock::data_write`]).
//!
//! # Threads and CPUs
//!
//! A thread runs on CPU 0 until [`Mock::run_on`] says otherwise. On one CPU,
//! one thread at a time has its interrupts off; a second one interrupts the
//! first and waits for it, as the host's scheduler would. A kick spares the CPU
//! that it is sent from, so a test gives each thread that kicks or is kicked a
//! CPU of its own.
//!
//! # Three ways to run
//!
//! As a plain test with threads; under Miri, with strict provenance; and with
//! `--cfg loom` under the model checker. There everything that orders memory
//! for the code under test uses loom's types, and whatever only keeps books
//! uses the standard library's, because each operation that loom sees
//! multiplies the interleavings. Each module says what the
//! model can therefore not see.
//!
//! # Example
//!
//! ```
//! # #[cfg(not(loom))] {
//! use waterbear_hal::Memory;
//! use waterbear_mock::MockHost;
//!
//! let host = MockHost::new();
//! let pfn = host.alloc_table().unwrap();
//! // SAFETY: the table was just allocated and nothing else refers to it.
//! unsafe { host.free_table(pfn) };
//! host.assert_no_leaks();
//! # }
//! ```

#[cfg(not(loom))]
mod arena;
#[cfg(loom)]
#[path = "arena_loom.rs"]
mod arena;
mod bell;
mod config;
mod context;
mod contiguous;
mod cpu;
mod fpu;
#[cfg(not(loom))]
mod grace;
#[cfg(loom)]
#[path = "grace_loom.rs"]
mod grace;
mod history;
pub mod hw;
mod inject;
mod interrupt;
mod leaks;
mod lock;
mod log;
mod memory;
mod pages;
#[cfg(not(loom))]
mod raw_lock;
#[cfg(loom)]
#[path = "raw_lock_loom.rs"]
mod raw_lock;
mod rcu;
mod space;
mod srcu;
mod sys;
#[cfg(all(test, not(loom)))]
mod tests;
mod time;
mod user;
mod wait_queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use arena::TABLE_BASE;
pub use bell::Bell;
pub use config::MockConfig;
pub use fpu::GuestFpu;
pub use history::{Event, History, Moment};
pub use leaks::Live;
pub use lock::{Mutex, RwLock};
pub use pages::DATA_BASE;
pub use space::{MapOptions, Space};
pub use srcu::Srcu;
pub use wait_queue::Queue;

/// What every entry of a freed page table reads as. It is present in either
/// format and has reserved bits set in both, so nobody can take it for a
/// mapping or for nothing.
pub const POISON: u64 = 0x6b6b_6b6b_6b6b_6b6b;

/// A simulated machine whose host tells when user mappings change.
pub type MockHost = Mock<true>;
/// A simulated machine whose host does not, so that pages stay pinned.
pub type PinningHost = Mock<false>;

/// A handle to one simulated machine.
pub struct Mock<const NOTIFIER: bool>(pub(crate) Arc<Machine>);

impl<const NOTIFIER: bool> Clone for Mock<NOTIFIER> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<const NOTIFIER: bool> Default for Mock<NOTIFIER> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// A machine with the default configuration.
    pub fn new() -> Self {
        Self::with(MockConfig::default())
    }

    /// A machine as `config` describes it.
    pub fn with(config: MockConfig) -> Self {
        let machine = Machine::new(config, !NOTIFIER);
        Self(Arc::new(machine))
    }
}

/// Everything that the handles of one machine share.
pub(crate) struct Machine {
    /// Tells threads which of their contexts belongs here.
    id: u64,
    /// Dies with the machine, so that threads can forget their contexts.
    alive: Arc<()>,
    checking: bool,
    /// Whether SRCU readers wait while somebody synchronises.
    readers_wait: bool,
    /// Whether anybody wants to hear of entry writes.
    watching: AtomicBool,
    arena: arena::Arena,
    grace: grace::Grace,
    heap: memory::Heap,
    contiguous: contiguous::Contiguous,
    descriptors: bell::Descriptors,
    clocks: time::Clocks,
    inject: inject::Injector,
    live: leaks::Counters,
    recorder: history::Recorder,
    cpus: cpu::Cpus,
    queues: wait_queue::Queues,
    pages: pages::Pages,
    log: log::Lines,
}

impl Machine {
    fn new(config: MockConfig, readers_wait: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            alive: Arc::new(()),
            checking: config.checking,
            readers_wait,
            watching: AtomicBool::new(config.checking),
            arena: arena::Arena::new(config.tables, config.checking),
            grace: grace::Grace::new(),
            heap: memory::Heap::default(),
            contiguous: contiguous::Contiguous::default(),
            descriptors: bell::Descriptors::default(),
            clocks: time::Clocks::default(),
            inject: inject::Injector::default(),
            live: leaks::Counters::default(),
            recorder: history::Recorder::default(),
            cpus: cpu::Cpus::new(config.cpus),
            queues: wait_queue::Queues::default(),
            pages: pages::Pages::default(),
            log: log::Lines::default(),
        }
    }
}

/// Panics because a rule is broken, unless a panic is already under way: then
/// the first one is the one worth reading.
#[track_caller]
pub(crate) fn rule_broken(what: std::fmt::Arguments<'_>) {
    if !std::thread::panicking() {
        panic!("{what}");
    }
}

/// [`rule_broken`], with a format string.
macro_rules! broken {
    ($($arg:tt)*) => { $crate::rule_broken(format_args!($($arg)*)) };
}
pub(crate) use broken;

const _: fn() = || {
    fn is_a_host<H: waterbear_hal::Hal>() {}
    is_a_host::<MockHost>();
    is_a_host::<PinningHost>();
};
