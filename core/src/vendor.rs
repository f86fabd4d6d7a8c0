//! What a CPU vendor's part must provide.
//!
//! [`Hardware`] is the slow path: is this CPU able, switch it on, switch it
//! off. It is used through references, so that the registry exists once.
//! [`Vendor`] is the way into the guest; code on that path is generic over it
//! and has no indirect call. [`either`] makes one vendor of two.
pub mod either;

use waterbear_hal::{CpuId, Hal, Pfn, Word};

pub use either::Either;

use crate::Error;
use crate::arch::{
    Attributes, Cr4, Efer, Event, Segment, SegmentName, Shadow, TableName, TableRegister,
};
use crate::exit::Exit;
use crate::mem::Box;
use crate::regs::{Regs, Switched};
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

    /// What a guest can have of an answer that this machine's CPUID gave: some instructions work in
    /// a guest only where hardware virtualisation has a control for them. Any context.
    fn limit_cpuid(&self, _function: u32, _index: u32, answer: [u32; 4]) -> [u32; 4] {
        answer
    }

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

/// The registers that every vendor keeps in memory while the guest does not run.
pub trait Registers {
    /// See [`Vendor::regs`].
    fn regs(&mut self) -> &mut Regs;

    /// See [`Vendor::switched`].
    fn switched(&mut self) -> &mut Switched;
}

impl<T: Registers, H: Hal> Registers for Box<T, H> {
    #[inline(always)]
    fn regs(&mut self) -> &mut Regs {
        (**self).regs()
    }

    #[inline(always)]
    fn switched(&mut self) -> &mut Switched {
        (**self).switched()
    }
}

/// Why an entry has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Why the guest was left.
    pub exit: Exit,
    /// Nothing else is due: the exit took nothing from the host and cut no event's delivery short.
    /// Then, and only then, the guest may be entered again in the same run.
    pub whole: bool,
}

/// The way into the guest.
///
/// The methods that take a vCPU are called by the thread that owns it, with interrupts on and the
/// thread free to move, unless they say otherwise. A vendor whose hardware keeps a vCPU's state on
/// one CPU fetches it from there first. None of them fails; a value that the hardware does not take
/// makes the next entry end with [`Exit::Refused`].
pub trait Vendor: Hardware {
    /// What the vendor keeps per vCPU.
    type Vcpu: Registers;

    /// Makes a vCPU in real mode, as after a reset but with every segment at address 0 and RIP 0.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    fn new_vcpu(&self) -> Result<Self::Vcpu, Error>;

    /// Makes ready for [`switch_in`](Vendor::switch_in), which follows on the same CPU, `cpu`, to
    /// which the thread is pinned; interrupts are on here and off there. A vendor whose hardware
    /// keeps a vCPU's state on one CPU fetches it here.
    fn prepare(&self, _vcpu: &mut Self::Vcpu, _cpu: CpuId) {}

    /// Begins a run on this CPU, `cpu`, on the page tables below `root`: what the CPU does not
    /// switch by itself becomes the guest's. Comes right after [`prepare`](Vendor::prepare), with
    /// interrupts off.
    ///
    /// Until [`switch_out`](Vendor::switch_out), which must follow, the thread stays on the CPU with
    /// interrupts off and does not sleep. Of the hooks it uses [`enter`](Vendor::enter) and those
    /// for registers; it injects no event and changes no control register or MSR.
    ///
    /// # Errors
    ///
    /// The exit that there would be: the guest need not be entered, or cannot. Then the run has not
    /// begun, and there is nothing to switch out.
    fn switch_in(&self, vcpu: &mut Self::Vcpu, cpu: CpuId, root: Pfn) -> Result<(), Exit>;

    /// Enters the guest and returns when the hardware has left it. An interrupt that arrives ends
    /// the guest's run and is taken when they are on again. What the vendor switches by hand is the
    /// guest's before and after; outside a run the entry is [`Exit::Refused`].
    fn enter(&self, vcpu: &mut Self::Vcpu) -> Left;

    /// Ends a run: what the CPU does not switch by itself is the host's again. What the last exit
    /// took from the host it gets here. Interrupts are off still.
    fn switch_out(&self, vcpu: &mut Self::Vcpu);

    /// Makes the next run of this vCPU, on whatever CPU, begin without second-level translations in
    /// that CPU's TLB.
    fn flush_tlb(&self, vcpu: &mut Self::Vcpu);

    /// The length of the instruction that caused the last exit, where the CPU tells it; 0 where it
    /// has to be decoded.
    fn length(&self, vcpu: &mut Self::Vcpu) -> u8;

    /// The bytes at RIP that the CPU fetched for the last exit, where it tells them; they may end
    /// in the middle of the instruction.
    fn fetched<'a>(&self, vcpu: &'a mut Self::Vcpu) -> &'a [u8];

    /// The vCPU's registers as of its last exit; changes count from the next
    /// entry on.
    #[inline(always)]
    fn regs<'a>(&self, vcpu: &'a mut Self::Vcpu) -> &'a mut Regs {
        vcpu.regs()
    }

    /// The same for those that the vendor switches by hand.
    #[inline(always)]
    fn switched<'a>(&self, vcpu: &'a mut Self::Vcpu) -> &'a mut Switched {
        vcpu.switched()
    }

    /// A segment register.
    fn segment(&self, vcpu: &mut Self::Vcpu, name: SegmentName) -> Segment;

    /// Sets a segment register; that of CS or SS sets the privilege level too, which is SS's.
    fn set_segment(&self, vcpu: &mut Self::Vcpu, name: SegmentName, value: Segment);

    /// A descriptor-table register.
    fn table(&self, vcpu: &mut Self::Vcpu, name: TableName) -> TableRegister;

    /// Sets a descriptor-table register.
    fn set_table(&self, vcpu: &mut Self::Vcpu, name: TableName, value: TableRegister);

    /// The current privilege level, 0 to 3.
    fn cpl(&self, vcpu: &mut Self::Vcpu) -> u8;

    /// A control register as the guest sees it.
    fn control(&self, vcpu: &mut Self::Vcpu, name: Control) -> u64;

    /// What decides where the guest's code is, all at once.
    fn code(&self, vcpu: &mut Self::Vcpu) -> Code {
        let cs = self.segment(vcpu, SegmentName::Cs).attributes;
        Code {
            cr3: self.control(vcpu, Control::Cr3),
            cr4: Cr4::from_bits_retain(self.control(vcpu, Control::Cr4)),
            efer: Efer::from_bits_retain(self.control(vcpu, Control::Efer)),
            long: cs.contains(Attributes::LONG),
            user: self.cpl(vcpu) == 3,
        }
    }

    /// Sets a control register. Bits that hardware needs otherwise are the vendor's business. The
    /// core has checked the value and flushes the TLB where that is due.
    fn set_control(&self, vcpu: &mut Self::Vcpu, name: Control, value: u64);

    /// Sets the four page-directory pointers of a guest in PAE mode, where hardware wants them.
    fn set_page_directories(&self, vcpu: &mut Self::Vcpu, entries: [u64; 4]);

    /// A model-specific register that the vendor switches.
    fn msr(&self, vcpu: &mut Self::Vcpu, msr: Msr) -> u64;

    /// Sets a model-specific register that the vendor switches. The core has checked the value.
    fn set_msr(&self, vcpu: &mut Self::Vcpu, msr: Msr, value: u64);

    /// Sets what the guest's time-stamp counter is ahead of the CPU's, modulo 2^64.
    fn set_tsc_offset(&self, vcpu: &mut Self::Vcpu, offset: u64);

    /// Delivers an event at the next entry. There is none yet; the core has checked that the guest
    /// can take it.
    fn inject(&self, vcpu: &mut Self::Vcpu, event: Event);

    /// Takes out the event whose delivery the last exit cut short, or that no entry has delivered.
    /// It is to be delivered again.
    fn take_undelivered(&self, vcpu: &mut Self::Vcpu) -> Option<Event>;

    /// What holds events off.
    fn shadow(&self, vcpu: &mut Self::Vcpu) -> Shadow;

    /// Sets what holds events off.
    fn set_shadow(&self, vcpu: &mut Self::Vcpu, shadow: Shadow);

    /// Asks for [`Exit::InterruptWindow`] and [`Exit::NmiWindow`] as soon as the guest can take
    /// the one or the other; asked again before every entry.
    fn want_windows(&self, vcpu: &mut Self::Vcpu, interrupt: bool, nmi: bool);
}

/// What decides where a guest's code is, beside RIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Code {
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// CS is for 64-bit code, if the CPU is in long mode.
    pub long: bool,
    /// The privilege level is 3.
    pub user: bool,
}

/// A control register that the vendor holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// CR0.
    Cr0,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// EFER, an MSR that behaves like one.
    Efer,
}

/// A model-specific register whose guest value is in the CPU while the guest runs. The first eight
/// are in the order in which one vendor's hardware keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Msr {
    /// STAR.
    Star,
    /// LSTAR.
    Lstar,
    /// CSTAR.
    Cstar,
    /// SFMASK.
    Sfmask,
    /// KERNEL_GS_BASE.
    KernelGsBase,
    /// IA32_SYSENTER_CS.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// IA32_PAT.
    Pat,
    /// TSC_AUX.
    TscAux,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Each in words, behind "this CPU" or the like.
            const TEXTS: &[&str] = &[$($text,)*];
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
        /// Its page-table entries are none that the core knows.
        UnknownFormat = "has an unknown page-table format",
        /// Something that a guest does could not be made to exit.
        LacksControls = "lacks controls that are needed",
    }
}

impl Unsupported {
    /// Says in the log that `vendor`'s hardware is not used, and why.
    #[cold]
    pub fn refuse<H: Hal>(self, hal: &H, vendor: &'static str) -> Error {
        hal.info(&[
            Word::Text(vendor),
            Word::Text(": this CPU "),
            Word::Text(Trouble::from(self).text()),
        ]);
        Error::NotSupported
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

/// What is wrong with a CPU: a small number, because it crosses from the CPU that found out to the
/// one that asked in an atomic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trouble(pub(crate) u8);

impl Trouble {
    /// Set in those that are an [`EnableError`], not [`Unsupported`].
    const ENABLE: u8 = 0x80;

    /// It in words.
    pub(crate) fn text(self) -> &'static str {
        let texts = if self.0 & Self::ENABLE == 0 {
            Unsupported::TEXTS
        } else {
            EnableError::TEXTS
        };
        let number = usize::from(self.0 & !Self::ENABLE);
        texts.get(number).copied().unwrap_or_default()
    }
}

impl From<Unsupported> for Trouble {
    fn from(reason: Unsupported) -> Self {
        Trouble(reason as u8)
    }
}

impl From<EnableError> for Trouble {
    fn from(error: EnableError) -> Self {
        Trouble(Self::ENABLE | error as u8)
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        if trouble == EnableError::Busy.into() {
            Error::Busy
        } else {
            Error::NotSupported
        }
    }
}
