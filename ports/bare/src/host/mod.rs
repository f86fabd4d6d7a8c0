//! The machine as a host: the HAL, with nothing underneath.
//!
//! One thread each CPU, which nobody preempts. CPU 0 runs the tests; the
//! others halt until [`run_on_all`] gives them something to do. Outside handlers
//! interrupts are on.
pub mod apic;
pub mod call;
pub mod cpu;
pub mod fpu;
pub mod irq_lock;
pub mod lock;
pub mod memory;
pub mod percpu;
pub mod rcu;
pub mod srcu;
pub mod timer;
pub mod user;
pub mod wait;

use core::sync::atomic::Ordering;

use waterbear_hal::{CpuId, Log, Word, Words};

use crate::console::say;
pub use crate::smp::{on_cpu, run_on_all};
pub use percpu::count;
pub use wait::{signal, take_signal};

/// The host. There is one, so a handle is nothing.
#[derive(Clone, Copy)]
pub struct Bare;

impl Log for Bare {
    fn info(&self, message: &[Word]) {
        say!("waterbear: {}", Words(message));
    }

    fn bug(&self, what: &'static str) {
        panic!("bug: {what}");
    }
}

/// Sends a CPU an NMI.
pub fn send_nmi(cpu: CpuId) {
    apic::send_nmi(percpu::of(cpu));
}

/// How many NMIs a CPU has taken.
pub fn nmi_count(cpu: CpuId) -> u64 {
    percpu::of(cpu).nmis.load(Ordering::Relaxed)
}
