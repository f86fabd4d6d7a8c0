//! What a CPU vendor's part must provide.
//!
//! [`Hardware`] is the slow path: is this CPU able, switch it on, switch it
//! off. It is used through references, so that the registry exists once.
//! [`Vendor`] is the way into the guest; code on that path is generic over it
//! and has no indirect call.
use core::fmt;

use waterbear_hal::{CpuId, Pfn};

use crate::Error;
use crate::exit::Exit;
use crate::regs::Regs;
use crate::spte::EntryFormat;

/// Hardware virtualisation of one vendor, CPU by CPU.
///
/// Every method runs on the CPU that it is given, with interrupts off, and
/// touches no other CPU.
pub trait Hardware: Send + Sync {
    /// The name of the mechanism, for the log.
    fn name(&self) -> &'static str;

    /// What the entries of its second-level page tables look like.
    fn entry_format(&self) -> EntryFormat;

    /// Whether this CPU can do what the core needs. Changes nothing.
    ///
    /// # Errors
    ///
    /// What it lacks.
    fn check_cpu(&self, cpu: CpuId) -> Result<(), Unsupported>;

    /// Whether somebody has switched hardware virtualisation on, on this CPU.
    /// Changes nothing.
    fn is_enabled(&self, cpu: CpuId) -> bool;

    /// Switches it on. Called once per [`disable_cpu`](Hardware::disable_cpu),
    /// for a CPU that passed [`check_cpu`](Hardware::check_cpu).
    ///
    /// # Errors
    ///
    /// [`EnableError::Busy`] when it is on already: whoever did that keeps it.
    /// [`EnableError::Failed`] when the hardware refuses. The CPU is as before.
    fn enable_cpu(&self, cpu: CpuId) -> Result<(), EnableError>;

    /// Switches it off. An emergency can come at any instruction, also while
    /// the CPU is being enabled or disabled: so this has no effect where it is
    /// off already, and takes no lock.
    fn disable_cpu(&self, cpu: CpuId);
}

/// The way into the guest.
pub trait Vendor: Hardware {
    /// What the vendor keeps per vCPU.
    type Vcpu;

    /// Makes a vCPU in real mode, with every segment at address 0 and every
    /// register 0. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    fn new_vcpu(&self) -> Result<Self::Vcpu, Error>;

    /// Enters the guest on the page tables below `root` and returns when the
    /// hardware has left it. Interrupts are off; one that arrives ends the
    /// guest's run and is taken when they are on again. Says why the hardware
    /// left it.
    fn enter(&self, vcpu: &mut Self::Vcpu, root: Pfn) -> Exit;

    /// The vCPU's registers as of its last exit; changes count from the next
    /// entry on.
    fn regs<'a>(&self, vcpu: &'a mut Self::Vcpu) -> &'a mut Regs;

    /// Makes the next [`enter`](Vendor::enter) of this vCPU, on whatever CPU,
    /// begin without second-level translations in that CPU's TLB. Interrupts
    /// are on and the thread may move.
    fn flush_tlb(&self, vcpu: &mut Self::Vcpu);
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            const ALL: &[$name] = &[$($name::$variant,)*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text,)* })
            }
        }
    };
}

reasons! {
    /// Why a CPU cannot host guests.
    Unsupported {
        /// Not a CPU of this vendor, or one without the extension.
        NoVirtualization = "has no hardware virtualisation of this kind",
        /// Firmware switched it off and locked that.
        DisabledByFirmware = "has hardware virtualisation, but the firmware disabled it",
        /// Guests would need shadow page tables, which the core does not have.
        NoSecondLevelPaging = "has no second-level paging",
        /// Guests could not begin in real mode.
        NoUnrestrictedGuest = "cannot run a guest in real mode (no unrestricted guest)",
        /// vCPUs move between CPUs, so all must be alike.
        Differs = "differs from the other CPUs",
        /// At or above [`MAX_CPUS`](waterbear_hal::cpu::MAX_CPUS).
        NumberTooHigh = "has a number that is too high",
    }
}

reasons! {
    /// Why a CPU was not enabled.
    EnableError {
        /// The host or another module uses it.
        Busy = "has hardware virtualisation in use by somebody else",
        /// The hardware refused.
        Failed = "refused to switch hardware virtualisation on",
    }
}

impl From<Unsupported> for Error {
    fn from(_: Unsupported) -> Self {
        Error::NotSupported
    }
}

impl From<EnableError> for Error {
    fn from(error: EnableError) -> Self {
        match error {
            EnableError::Busy => Error::Busy,
            EnableError::Failed => Error::NotSupported,
        }
    }
}

/// What is wrong with a CPU, as a small number: it crosses from the CPU that
/// found out to the one that asked in an atomic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    Unsupported(Unsupported),
    Enable(EnableError),
}

impl Trouble {
    pub(crate) fn code(self) -> u8 {
        match self {
            Trouble::Unsupported(reason) => reason as u8,
            Trouble::Enable(error) => 0x80 | error as u8,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        let unsupported = Unsupported::ALL.iter().map(|&r| Trouble::Unsupported(r));
        let enable = EnableError::ALL.iter().map(|&e| Trouble::Enable(e));
        unsupported.chain(enable).find(|t| t.code() == code)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unsupported(reason) => reason.fmt(f),
            Trouble::Enable(error) => error.fmt(f),
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unsupported(reason) => reason.into(),
            Trouble::Enable(error) => error.into(),
        }
    }
}
