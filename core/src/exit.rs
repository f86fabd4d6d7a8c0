//! Why a vCPU left the guest, in words that no vendor owns.
use waterbear_hal::Gpa;

use crate::arch::Exception;
use crate::tdp::fast::Access;

/// Why a vCPU left the guest.
///
/// RIP is at the instruction that left, unless a variant says otherwise. The length of that
/// instruction, where the CPU tells it, is [`Vendor::length`](crate::vendor::Vendor::length).
///
/// Those that say no more than their name are together, in the order of [`Plain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The guest touched memory that is not mapped for it.
    Fault {
        /// The address it touched.
        gpa: Gpa,
        /// How.
        access: Access,
    },
    /// The guest touched memory behind an MMIO entry.
    Mmio {
        /// The address it touched.
        gpa: Gpa,
        /// How, where the CPU tells.
        access: Option<Access>,
    },
    /// IN or OUT.
    Io(IoExit),
    /// A MOV to or from a control register, CLTS, LMSW or SMSW.
    Control(ControlExit),
    /// A MOV to or from a debug register.
    Debug(DebugExit),
    /// An exception that is intercepted.
    Exception(Exception),
    /// A task switch by CALL, JMP, IRET, an interrupt or an exception.
    TaskSwitch {
        /// The selector of the new task.
        selector: u16,
    },
    /// The hardware refused to enter the guest: its state is not valid. The vendor's own number
    /// for it.
    Refused(u64),
    /// Nothing that is handled; the vendor's own number for it.
    Unknown(u64),
    /// CPUID.
    Cpuid,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// XSETBV.
    SetXcr,
    /// HLT.
    Halt,
    /// PAUSE, after many of them.
    Pause,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// An instruction that this CPU has and the guest's has not: #UD.
    Forbidden,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// The host was interrupted; it takes the interrupt when it can.
    Interrupt,
    /// The guest's CPU shut down (triple fault).
    Shutdown,
    /// The log of dirty pages that hardware writes is full.
    DirtyLogFull,
}

macro_rules! plain {
    ($($name:ident)*) => {
        /// The exits that say no more than their name, as vendors list them in tables.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Plain {
            $(
                #[doc = concat!("[`Exit::", stringify!($name), "`].")]
                $name,
            )*
        }

        impl From<Plain> for Exit {
            fn from(plain: Plain) -> Self {
                match plain {
                    $(Plain::$name => Self::$name,)*
                }
            }
        }
    };
}

plain! {
    Cpuid ReadMsr WriteMsr SetXcr Halt Pause Invd Wbinvd Hypercall Forbidden
    InterruptWindow NmiWindow Interrupt Shutdown DirtyLogFull
}

impl Plain {
    /// A table of exits by numbers, which begin at `first`.
    pub const fn table<const N: usize>(first: u64, exits: &[(u64, Self)]) -> [Option<Self>; N] {
        let mut table = [None; N];
        let mut rest = exits;
        while let [(number, exit), others @ ..] = rest {
            table[(*number - first) as usize] = Some(*exit);
            rest = others;
        }
        table
    }
}

/// An access to an I/O port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoExit {
    /// The port.
    pub port: u16,
    /// Bytes per access: 1, 2 or 4.
    pub size: u8,
    /// IN, as opposed to OUT.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
}

/// An access to a control register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlExit {
    /// MOV to the register from a general register. A source that the CPU does not name has to be
    /// decoded.
    Write {
        /// The control register.
        register: u8,
        /// The general register.
        source: Option<u8>,
    },
    /// MOV from the register to a general register.
    Read {
        /// The control register.
        register: u8,
        /// The general register.
        target: Option<u8>,
    },
    /// CLTS.
    ClearTs,
    /// LMSW with this source, where the CPU tells it.
    LoadStatus(Option<u16>),
}

/// An access to a debug register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugExit {
    /// The debug register.
    pub register: u8,
    /// MOV from the debug register, as opposed to one into it.
    pub read: bool,
    /// The general register, where the CPU names it.
    pub general: Option<u8>,
}
