//! Why the guest was left, in the core's words.
//!
//! Source: Intel SDM volume 3, "Information for VM Exits" and "VMX Basic Exit Reasons".
use waterbear_core::arch::Exception;
use waterbear_core::exit::{ControlExit, DebugExit, Exit, IoExit, Plain};
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use x86::vmx::vmcs::ro;

use crate::event::{self, DR6_NEW};

/// The bit of an exit reason that says that the entry failed.
pub const ENTRY_FAILED: u64 = 1 << 31;
/// The NMI handler's IRET ended the blocking of NMIs, and then faulted: it is not over.
const UNBLOCKED: u64 = 1 << 12;

/// Basic exit reasons.
mod reason {
    pub const EXCEPTION_OR_NMI: u64 = 0;
    pub const INTERRUPT: u64 = 1;
    pub const TRIPLE_FAULT: u64 = 2;
    pub const INIT: u64 = 3;
    pub const SMI_IO: u64 = 5;
    pub const SMI: u64 = 6;
    pub const INTERRUPT_WINDOW: u64 = 7;
    pub const NMI_WINDOW: u64 = 8;
    pub const TASK_SWITCH: u64 = 9;
    pub const CPUID: u64 = 10;
    pub const GETSEC: u64 = 11;
    pub const HLT: u64 = 12;
    pub const INVD: u64 = 13;
    pub const RDPMC: u64 = 15;
    pub const RSM: u64 = 17;
    pub const VMCALL: u64 = 18;
    pub const VMCLEAR: u64 = 19;
    pub const VMLAUNCH: u64 = 20;
    pub const VMPTRLD: u64 = 21;
    pub const VMPTRST: u64 = 22;
    pub const VMREAD: u64 = 23;
    pub const VMRESUME: u64 = 24;
    pub const VMWRITE: u64 = 25;
    pub const VMXOFF: u64 = 26;
    pub const VMXON: u64 = 27;
    pub const CONTROL: u64 = 28;
    pub const DEBUG: u64 = 29;
    pub const IO: u64 = 30;
    pub const RDMSR: u64 = 31;
    pub const WRMSR: u64 = 32;
    pub const MWAIT: u64 = 36;
    pub const MONITOR: u64 = 39;
    pub const PAUSE: u64 = 40;
    pub const MACHINE_CHECK: u64 = 41;
    pub const EPT_VIOLATION: u64 = 48;
    pub const EPT_MISCONFIGURATION: u64 = 49;
    pub const INVEPT: u64 = 50;
    pub const RDTSCP: u64 = 51;
    pub const PREEMPTION_TIMER: u64 = 52;
    pub const INVVPID: u64 = 53;
    pub const WBINVD: u64 = 54;
    pub const XSETBV: u64 = 55;
    pub const RDRAND: u64 = 57;
    pub const INVPCID: u64 = 58;
    pub const VMFUNC: u64 = 59;
    pub const ENCLS: u64 = 60;
    pub const RDSEED: u64 = 61;
    pub const DIRTY_LOG_FULL: u64 = 62;
    pub const XSAVES: u64 = 63;
    pub const XRSTORS: u64 = 64;
    pub const UMWAIT: u64 = 67;
    pub const TPAUSE: u64 = 68;
    pub const ENCLV: u64 = 70;
}

/// Where the fields of a control structure are read.
pub trait Fields {
    /// Reads a field; one that does not exist reads as 0.
    fn read(&self, field: u32) -> u64;
}

bitflags::bitflags! {
    /// What is to be done before the core hears of an exit.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ToDo: u8 {
        /// The exit took an NMI from the host, which is to be raised again.
        const HOST_NMI = 1 << 0;
        /// The same with a machine check.
        const HOST_MACHINE_CHECK = 1 << 1;
        /// NMIs stay blocked, although the CPU does not know it.
        const BLOCK_NMIS = 1 << 2;
        /// RIP moves on by the length: the exception is a trap.
        const SKIP = 1 << 3;
    }
}

/// What an exit says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Why the guest was left.
    pub exit: Exit,
    /// The length of the instruction that left it, or 0.
    pub length: u8,
    /// What is to be done first.
    pub to_do: ToDo,
}

impl Left {
    /// Not by an instruction, or by one whose length the CPU does not tell.
    #[inline(always)]
    fn plain(exit: Exit) -> Self {
        Self {
            exit,
            length: 0,
            to_do: ToDo::empty(),
        }
    }

    fn and(self, to_do: ToDo, really: bool) -> Self {
        Self {
            to_do: if really {
                self.to_do | to_do
            } else {
                self.to_do
            },
            ..self
        }
    }
}

/// What some reasons mean whatever comes with them.
const PLAIN: [Option<Plain>; 71] = Plain::table(
    0,
    &[
        (reason::TRIPLE_FAULT, Plain::Shutdown),
        (reason::INIT, Plain::Interrupt),
        (reason::SMI_IO, Plain::Interrupt),
        (reason::SMI, Plain::Interrupt),
        (reason::INTERRUPT_WINDOW, Plain::InterruptWindow),
        (reason::NMI_WINDOW, Plain::NmiWindow),
        (reason::GETSEC, Plain::Forbidden),
        (reason::HLT, Plain::Halt),
        (reason::INVD, Plain::Invd),
        (reason::RSM, Plain::Forbidden),
        (reason::VMCALL, Plain::Hypercall),
        (reason::VMCLEAR, Plain::Forbidden),
        (reason::VMLAUNCH, Plain::Forbidden),
        (reason::VMPTRLD, Plain::Forbidden),
        (reason::VMPTRST, Plain::Forbidden),
        (reason::VMREAD, Plain::Forbidden),
        (reason::VMRESUME, Plain::Forbidden),
        (reason::VMWRITE, Plain::Forbidden),
        (reason::VMXOFF, Plain::Forbidden),
        (reason::VMXON, Plain::Forbidden),
        (reason::RDMSR, Plain::ReadMsr),
        (reason::WRMSR, Plain::WriteMsr),
        (reason::MWAIT, Plain::Forbidden),
        (reason::MONITOR, Plain::Forbidden),
        (reason::PAUSE, Plain::Pause),
        (reason::INVEPT, Plain::Forbidden),
        (reason::RDTSCP, Plain::Forbidden),
        (reason::INVVPID, Plain::Forbidden),
        (reason::WBINVD, Plain::Wbinvd),
        (reason::XSETBV, Plain::SetXcr),
        (reason::RDRAND, Plain::Forbidden),
        (reason::INVPCID, Plain::Forbidden),
        (reason::VMFUNC, Plain::Forbidden),
        (reason::ENCLS, Plain::Forbidden),
        (reason::RDSEED, Plain::Forbidden),
        (reason::XSAVES, Plain::Forbidden),
        (reason::XRSTORS, Plain::Forbidden),
        (reason::UMWAIT, Plain::Forbidden),
        (reason::TPAUSE, Plain::Forbidden),
        (reason::ENCLV, Plain::Forbidden),
    ],
);

/// Basic exit reasons below 64 that are no instruction's, and so come without a length: a bit for
/// each.
const NO_INSTRUCTION: u64 = 1 << reason::INIT
    | 1 << reason::SMI_IO
    | 1 << reason::SMI
    | 1 << reason::INTERRUPT_WINDOW
    | 1 << reason::NMI_WINDOW
    | 1 << reason::TRIPLE_FAULT
    | 1 << reason::PREEMPTION_TIMER
    | 1 << reason::DIRTY_LOG_FULL;

/// What the exit with this reason says. `vectoring` is the information about the event whose
/// delivery it cut short.
#[inline(always)]
pub fn decode(fields: &impl Fields, why: u64, vectoring: u32) -> Left {
    let plain = Left::plain;
    let by = |exit| Left {
        length: fields.read(ro::VMEXIT_INSTRUCTION_LEN) as u8,
        ..plain(exit)
    };
    let gpa = || Gpa(fields.read(ro::GUEST_PHYSICAL_ADDR_FULL));
    // Those that are finished soonest first, and what is most frequent besides.
    match why {
        reason::CPUID => by(Exit::Cpuid),
        reason::IO => by(io(fields.read(ro::EXIT_QUALIFICATION))),
        reason::EPT_VIOLATION => {
            let bits = fields.read(ro::EXIT_QUALIFICATION);
            let exit = Exit::Fault {
                gpa: gpa(),
                access: access(bits),
            };
            let unblocked = bits & UNBLOCKED != 0 && !event::is_valid(vectoring);
            plain(exit).and(ToDo::BLOCK_NMIS, unblocked)
        }
        // The exit does not say how the guest touched it.
        reason::EPT_MISCONFIGURATION => plain(Exit::Mmio {
            gpa: gpa(),
            access: None,
        }),
        reason::INTERRUPT => plain(Exit::Interrupt),
        _ => decode_other(fields, why, vectoring),
    }
}

#[inline(never)]
fn decode_other(fields: &impl Fields, why: u64, vectoring: u32) -> Left {
    let qualification = || fields.read(ro::EXIT_QUALIFICATION);
    let mut length = 0;
    if NO_INSTRUCTION.checked_shr(why as u32).unwrap_or(1) & 1 == 0 {
        length = fields.read(ro::VMEXIT_INSTRUCTION_LEN) as u8;
    }
    let mut to_do = ToDo::empty();
    if let Some(&Some(plain)) = PLAIN.get(why as usize) {
        return Left {
            length,
            ..Left::plain(plain.into())
        };
    }
    let exit = match why {
        reason::EXCEPTION_OR_NMI => return exception(fields, vectoring),
        reason::CONTROL => control(qualification()),
        reason::DEBUG => debug(qualification()),
        reason::TASK_SWITCH => {
            let bits = qualification();
            // Through a task gate of the IDT, only an instruction has a length.
            const GATE: u64 = 3;
            if bits >> 30 & 3 == GATE && !event::is_soft(vectoring) {
                length = 0;
            }
            Exit::TaskSwitch {
                selector: bits as u16,
            }
        }
        // The guest's CPU has no counters.
        reason::RDPMC => Exit::Exception(Exception::general_protection(0)),
        reason::DIRTY_LOG_FULL => {
            if qualification() & UNBLOCKED != 0 && !event::is_valid(vectoring) {
                to_do = ToDo::BLOCK_NMIS;
            }
            Exit::DirtyLogFull
        }
        why if why & ENTRY_FAILED == 0 => Exit::Unknown(why),
        why if why & 0xffff == reason::MACHINE_CHECK => {
            to_do = ToDo::HOST_MACHINE_CHECK;
            Exit::Interrupt
        }
        why => Exit::Refused(why),
    };
    Left {
        exit,
        length,
        to_do,
    }
}

/// An exception that is intercepted, or an NMI of the host's.
#[cold]
fn exception(fields: &impl Fields, vectoring: u32) -> Left {
    const HAS_ERROR: u64 = 1 << 11;
    const INT1: u64 = 5;
    let info = fields.read(ro::VMEXIT_INTERRUPTION_INFO);
    let vector = info as u8;
    let mut left = Left::plain(Exit::Interrupt);
    if event::is_nmi(info as u32) {
        left.to_do = ToDo::HOST_NMI;
        return left;
    }
    // A double fault's IRET is not restarted.
    if info & UNBLOCKED != 0 && vector != Exception::DF && !event::is_valid(vectoring) {
        left.to_do = ToDo::BLOCK_NMIS;
    }
    if vector == Exception::MC {
        left.to_do |= ToDo::HOST_MACHINE_CHECK;
        return left;
    }
    let qualification = fields.read(ro::EXIT_QUALIFICATION);
    let error = fields.read(ro::VMEXIT_INTERRUPTION_ERR_CODE) as u32;
    left.exit = Exit::Exception(Exception {
        vector,
        error: (info & HAS_ERROR != 0).then_some(error),
        payload: match vector {
            Exception::PF => qualification,
            Exception::DB => qualification & DR6_NEW,
            _ => 0,
        },
    });
    if info >> 8 & 7 == INT1 {
        left.length = fields.read(ro::VMEXIT_INSTRUCTION_LEN) as u8;
        left.to_do |= ToDo::SKIP;
    }
    left
}

fn io(qualification: u64) -> Exit {
    Exit::Io(IoExit {
        port: (qualification >> 16) as u16,
        size: (qualification & 7) as u8 + 1,
        input: qualification & 1 << 3 != 0,
        string: qualification & 1 << 4 != 0,
        repeat: qualification & 1 << 5 != 0,
    })
}

fn access(qualification: u64) -> Access {
    // What the entries on the way allow together.
    const RIGHTS: u64 = 7 << 3;
    const ADDRESS_VALID: u64 = 1 << 7;
    const FINAL: u64 = 1 << 8;
    Access {
        write: qualification & 1 << 1 != 0,
        exec: qualification & 1 << 2 != 0,
        guest_walk: qualification & (ADDRESS_VALID | FINAL) == ADDRESS_VALID,
        absent: qualification & RIGHTS == 0,
    }
}

fn control(qualification: u64) -> Exit {
    let register = (qualification & 0xf) as u8;
    let general = Some((qualification >> 8 & 0xf) as u8);
    Exit::Control(match qualification >> 4 & 3 {
        0 => ControlExit::Write {
            register,
            source: general,
        },
        1 => ControlExit::Read {
            register,
            target: general,
        },
        2 => ControlExit::ClearTs,
        _ => ControlExit::LoadStatus(Some((qualification >> 16) as u16)),
    })
}

fn debug(qualification: u64) -> Exit {
    Exit::Debug(DebugExit {
        register: (qualification & 7) as u8,
        read: qualification & 1 << 4 != 0,
        general: Some((qualification >> 8 & 0xf) as u8),
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
