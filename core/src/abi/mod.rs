//! The KVM ioctl interface, once for every port.
//!
//! A port hands over which kind of descriptor was called, the command, the
//! argument and the [`Caller`], and gets a [`Reply`] or a [`Failure`]. It alone
//! makes descriptors and numbers errors.
//!
//! | file | idea |
//! |---|---|
//! | [`kvm`] | numbers and structures, from the public header |
//! | [`bytes`] | the caller's structures, copied once |
//! | [`capability`] | what the interface says of itself |
//! | [`system`] | commands of the device node |
//! | [`vm`] | commands of a VM's descriptor |
//! | `log`, `devices`, `clock` | the dirty log, the bus and the clock, as the interface has them |
//! | [`vcpu`] | commands of a vCPU's descriptor |
//! | [`stats`] | statistics, and the descriptor that tells them |
//! | [`area`] | the memory that a vCPU's descriptor shares, and KVM_RUN's exits in it |
//! | [`prefault`] | memory that is mapped before the guest asks |
//! | `tsc` | the time-stamp counters of a VM's vCPUs |
//! | `registers`, `msrs`, `cpuid`, `fpu`, `events` | a vCPU's state, as the interface has it |
//!
//! What every command means is said in "The Definitive KVM API Documentation".
//! A capability reads 0 until it works, and a command that is not there yet is
//! [`Failure::Unknown`], as one that nobody ever heard of.
pub mod area;
pub mod bytes;
pub mod capability;
mod clock;
mod cpuid;
mod devices;
mod events;
mod fpu;
#[expect(
    missing_docs,
    non_camel_case_types,
    clippy::allow_attributes,
    reason = "generated from the public header, which has the names"
)]
#[rustfmt::skip]
pub mod kvm;
mod log;
mod msrs;
pub mod prefault;
mod registers;
pub mod stats;
pub mod system;
mod tsc;
pub mod vcpu;
pub mod vm;

pub use area::RunArea;
pub use bytes::Caller;
pub use stats::StatsFile;
pub use vcpu::VcpuFile;
pub use vm::VmFile;

use crate::Error;

/// What a command gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// This number.
    Value(u32),
    /// A descriptor of a new VM, which the port makes.
    NewVm,
    /// A descriptor of a new vCPU with this index, which the port makes.
    NewVcpu(u32),
    /// A descriptor of which statistics are read, which the port makes.
    NewStats,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There is no such command for this kind of descriptor (ENOTTY).
    Unknown,
    /// The caller's array is too small (E2BIG); it was told the right size.
    TooBig,
    /// Anything else.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// What a command gives back, or why not.
pub type Answer = Result<Reply, Failure>;

/// The command was carried out and has nothing to say.
const DONE: Answer = Ok(Reply::Value(0));

/// An argument that must be 0 because the command has none.
fn no_argument(argument: u64) -> Result<(), Failure> {
    if argument == 0 {
        Ok(())
    } else {
        Err(Error::Invalid.into())
    }
}
