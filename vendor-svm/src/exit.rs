//! Why the guest was left: exit codes into the core's words.
//!
//! Source: AMD APM volume 2, "SVM Intercept Exit Codes" and the sections on each intercept.
use waterbear_core::arch::{Exception, Rflags};
use waterbear_core::exit::{ControlExit, DebugExit, Exit, IoExit, Plain};
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;

use crate::detect::Has;
use crate::vmcb::Control;

/// Exit codes that somebody needs by name.
pub mod code {
    /// The first exception.
    pub const EXCEPTION: u64 = 0x40;
    /// A page fault.
    pub const PAGE_FAULT: u64 = EXCEPTION + 14;
    /// A machine check.
    pub const MACHINE_CHECK: u64 = EXCEPTION + 18;
    /// A debug exception.
    pub const DEBUG: u64 = EXCEPTION + 1;
    /// The guest can take an interrupt.
    pub const VINTR: u64 = 0x64;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// IRET.
    pub const IRET: u64 = 0x74;
    /// IN or OUT.
    pub const IOIO: u64 = 0x7b;
    /// Shutdown.
    pub const SHUTDOWN: u64 = 0x7f;
    /// A nested page fault.
    pub const NPF: u64 = 0x400;
    /// The guest state is not valid.
    pub const INVALID: u64 = u64::MAX;
}

/// The exit code. The negative ones may come without their upper half.
pub fn reason(control: &Control) -> u64 {
    i64::from(control.exit_code as i32) as u64
}

/// What an exit means. `has` is what the CPU has; `causes` is what a debug exception has set in
/// DR6.
#[inline(always)]
pub fn decode(control: &Control, has: Has, causes: u64) -> Exit {
    // Those that are finished soonest first, and what is most frequent besides.
    match reason(control) {
        code::CPUID => Exit::Cpuid,
        code::NPF => nested_fault(control.exit_info1, control.exit_info2),
        code::IOIO => port(control.exit_info1),
        _ => decode_other(control, has, causes),
    }
}

/// An access to a port, from the exit's first word.
fn port(info: u64) -> Exit {
    Exit::Io(IoExit {
        port: (info >> 16) as u16,
        size: (info >> 4 & 7) as u8,
        input: info & 1 != 0,
        string: info & 1 << 2 != 0,
        repeat: info & 1 << 3 != 0,
    })
}

#[inline(never)]
fn decode_other(control: &Control, has: Has, causes: u64) -> Exit {
    let assists = has.contains(Has::DECODE_ASSISTS);
    let (info1, info2) = (control.exit_info1, control.exit_info2);
    // Bit 63 tells MOV from CLTS, LMSW and SMSW; the lowest four name the general register.
    let general = (assists && info1 >> 63 != 0).then_some(info1 as u8 & 0xf);
    let why = reason(control);
    if let Some(&Some(plain)) = PLAIN.get(why.wrapping_sub(FIRST_PLAIN) as usize) {
        return plain.into();
    }
    match why {
        register @ 0x00..=0x0f => Exit::Control(ControlExit::Read {
            register: register as u8,
            target: general,
        }),
        // A write to CR0 of which it is known that it is no MOV is CLTS or LMSW, one that changes
        // more than TS and MP is LMSW. Which one has to be decoded in the first case.
        0x65 if assists && general.is_none() => Exit::Control(ControlExit::LoadStatus(None)),
        0x10..=0x1f | 0x65 => Exit::Control(ControlExit::Write {
            register: if why == 0x65 { 0 } else { why as u8 & 0xf },
            source: general,
        }),
        register @ 0x20..=0x3f => Exit::Debug(DebugExit {
            register: register as u8 & 0xf,
            read: register < 0x30,
            general: assists.then_some(info1 as u8 & 0xf),
        }),
        // The host takes it before anything else happens (`Svm::enter`).
        code::MACHINE_CHECK => Exit::Interrupt,
        number @ code::EXCEPTION..=0x5f => Exit::Exception(exception(
            (number - code::EXCEPTION) as u8,
            info1,
            info2,
            causes,
        )),
        // RDPMC: guests have no counters, so no number is right.
        0x6f => Exit::Exception(Exception::general_protection(0)),
        0x7c if info1 & 1 == 0 => Exit::ReadMsr,
        0x7c => Exit::WriteMsr,
        0x7d => Exit::TaskSwitch {
            selector: info1 as u16,
        },
        code::INVALID => Exit::Refused(code::INVALID),
        other => Exit::Unknown(other),
    }
}

/// The first exit code that [`PLAIN`] has a place for.
const FIRST_PLAIN: u64 = 0x60;
/// What some codes mean whatever comes with them.
const PLAIN: [Option<Plain>; 0x45] = Plain::table(
    FIRST_PLAIN,
    &[
        // INTR, NMI, SMI, INIT: the host takes them when its interrupts, or its GIF, are on.
        (0x60, Plain::Interrupt),
        (0x61, Plain::Interrupt),
        (0x62, Plain::Interrupt),
        (0x63, Plain::Interrupt),
        (code::VINTR, Plain::InterruptWindow),
        (0x73, Plain::Forbidden), // RSM
        (0x76, Plain::Invd),
        (0x77, Plain::Pause),
        (0x78, Plain::Halt),
        (0x7a, Plain::Forbidden), // INVLPGA
        (code::SHUTDOWN, Plain::Shutdown),
        (0x80, Plain::Forbidden), // VMRUN
        (0x81, Plain::Hypercall),
        (0x82, Plain::Forbidden), // VMLOAD
        (0x83, Plain::Forbidden), // VMSAVE
        (0x84, Plain::Forbidden), // STGI
        (0x85, Plain::Forbidden), // CLGI
        (0x86, Plain::Forbidden), // SKINIT
        (0x89, Plain::Wbinvd),
        (0x8a, Plain::Forbidden), // MONITOR
        (0x8b, Plain::Forbidden), // MWAIT
        (0x8c, Plain::Forbidden), // MWAIT when the monitor is armed
        (0x8d, Plain::SetXcr),
        (0x8e, Plain::Forbidden), // RDPRU
        (0xa0, Plain::Forbidden), // INVLPGB
        (0xa1, Plain::Forbidden), // INVLPGB with operands that it does not take
        (0xa3, Plain::Forbidden), // MCOMMIT
        (0xa4, Plain::Forbidden), // TLBSYNC
    ],
);

/// An intercepted exception. An exception that is intercepted has not written CR2 yet, but DR6.
fn exception(vector: u8, info1: u64, info2: u64, causes: u64) -> Exception {
    const WITH_ERROR: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21 | 3 << 29;
    Exception {
        vector,
        error: (1_u32.checked_shl(vector.into()).unwrap_or(0) & WITH_ERROR != 0)
            .then_some(info1 as u32),
        payload: match vector {
            Exception::PF => info2,
            Exception::DB => causes,
            _ => 0,
        },
    }
}

/// The bits of DR6 that say what caused a debug exception: B0 to B3, BD, BS, BT.
pub const DR6_CAUSES: u64 = 0xe00f;
/// BS: single-stepping.
pub const DR6_STEP: u64 = 1 << 14;

/// The bit of DR6 that the trap flag causes, if it is on.
pub fn step_of(flags: u64) -> u64 {
    if Rflags::from_bits_retain(flags).contains(Rflags::TF) {
        DR6_STEP
    } else {
        0
    }
}

/// A nested page fault. The walk of a guest's page tables counts as user writes, whatever the
/// access that made it ("Nested Table Walk").
#[inline(always)]
fn nested_fault(info1: u64, info2: u64) -> Exit {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const RESERVED: u64 = 1 << 3;
    const FETCH: u64 = 1 << 4;
    const GUEST_WALK: u64 = 1 << 33;
    let access = Access {
        write: info1 & WRITE != 0,
        exec: info1 & FETCH != 0,
        guest_walk: info1 & GUEST_WALK != 0,
        absent: info1 & PRESENT == 0,
    };
    let gpa = Gpa(info2);
    if info1 & RESERVED != 0 {
        Exit::Mmio {
            gpa,
            access: Some(access),
        }
    } else {
        Exit::Fault { gpa, access }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pages::empty_block;

    fn of(exit_code: u64, exit_info1: u64, exit_info2: u64, assists: bool) -> Exit {
        let mut control = empty_block().control;
        control.exit_code = exit_code;
        control.exit_info1 = exit_info1;
        control.exit_info2 = exit_info2;
        let has = if assists {
            Has::DECODE_ASSISTS
        } else {
            Has::empty()
        };
        decode(&control, has, DR6_STEP)
    }

    #[test]
    fn control_registers_name_the_general_register_where_the_cpu_does() {
        const MOV: u64 = 1 << 63;
        let write = |register, source| Exit::Control(ControlExit::Write { register, source });
        assert_eq!(of(0x14, MOV | 3, 0, true), write(4, Some(3)));
        assert_eq!(of(0x14, MOV | 3, 0, false), write(4, None));
        assert_eq!(of(0x65, MOV | 15, 0, true), write(0, Some(15)));
        assert_eq!(of(0x65, 0, 0, false), write(0, None));
        let status = Exit::Control(ControlExit::LoadStatus(None));
        assert_eq!(of(0x65, 0, 0, true), status);
        let read = Exit::Control(ControlExit::Read {
            register: 8,
            target: Some(1),
        });
        assert_eq!(of(0x08, MOV | 1, 0, true), read);
    }

    #[test]
    fn debug_registers_tell_reads_from_writes() {
        let debug = |register, read, general| {
            Exit::Debug(DebugExit {
                register,
                read,
                general,
            })
        };
        assert_eq!(of(0x27, 5, 0, true), debug(7, true, Some(5)));
        assert_eq!(of(0x30, 5, 0, false), debug(0, false, None));
    }

    #[test]
    fn exceptions_come_with_what_they_bring() {
        let page_fault = Exception::page_fault(0x1000, 2);
        assert_eq!(of(0x4e, 2, 0x1000, true), Exit::Exception(page_fault));
        let alignment = Exception::with_error(Exception::AC, 0);
        assert_eq!(of(0x51, 0, 0, true), Exit::Exception(alignment));
        let debug = Exception {
            payload: DR6_STEP,
            ..Exception::plain(Exception::DB)
        };
        assert_eq!(of(0x41, 0, 0, true), Exit::Exception(debug));
        // A machine check is the host's.
        assert_eq!(of(0x52, 0, 0, true), Exit::Interrupt);
    }

    #[test]
    fn ports_are_taken_apart() {
        let io = Exit::Io(IoExit {
            port: 0x3f8,
            size: 2,
            input: true,
            string: true,
            repeat: false,
        });
        assert_eq!(of(0x7b, 0x03f8_0025, 0, false), io);
    }

    #[test]
    fn nested_faults_say_how() {
        let gpa = Gpa(0x5000);
        let access = Access {
            write: true,
            exec: false,
            guest_walk: true,
            absent: true,
        };
        let fault = Exit::Fault { gpa, access };
        assert_eq!(of(0x400, 1 << 33 | 6, gpa.0, true), fault);
        let access = Some(Access::default());
        let mmio = Exit::Mmio { gpa, access };
        assert_eq!(of(0x400, 1 << 32 | 0xd, gpa.0, true), mmio);
    }

    #[test]
    fn a_refusal_is_one_with_and_without_its_upper_half() {
        let refused = Exit::Refused(code::INVALID);
        assert_eq!(of(u64::MAX, 0, 0, true), refused);
        assert_eq!(of(0xffff_ffff, 0, 0, true), refused);
        assert_eq!(of(0x403, 0, 0, true), Exit::Unknown(0x403));
    }
}
