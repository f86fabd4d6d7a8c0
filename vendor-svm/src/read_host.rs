//! Reading the registers of [`HOST_STATE`](crate::host_state::HOST_STATE), for a test that compares
//! them before and after guests.
#![expect(unsafe_code, reason = "privileged registers")]
use core::arch::asm;

use waterbear_core::arch::{SegmentName, TableName};

use crate::cpu;
use crate::host_state::Place;

/// What SGDT and SIDT write.
#[repr(C, packed)]
#[derive(Default)]
struct Table {
    limit: u16,
    base: u64,
}

macro_rules! instruction {
    ($text:literal) => {{
        let value: u64;
        // SAFETY: reads a register.
        unsafe { asm!($text, out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }};
}

impl Place {
    /// What is in the register on this CPU, if a function can read it; of a table, the base in
    /// bits 63:0 and the limit above.
    ///
    /// # Safety
    ///
    /// This is the kernel, and the CPU has the register; for XCR0, CR4.OSXSAVE is set.
    pub unsafe fn read(self) -> Option<u128> {
        let value = match self {
            // SAFETY: as the caller promises.
            Place::Msr(msr) => unsafe { cpu::read_msr(msr) },
            // SAFETY: as the caller promises.
            Place::Control(0) => unsafe { cpu::read_cr0() },
            // SAFETY: as the caller promises.
            Place::Control(2) => unsafe { cpu::read_cr2() },
            // SAFETY: as the caller promises.
            Place::Control(3) => unsafe { cpu::read_cr3() },
            // SAFETY: as the caller promises.
            Place::Control(4) => unsafe { cpu::read_cr4() },
            // SAFETY: as the caller promises.
            Place::Control(8) => unsafe { cpu::read_cr8() },
            Place::Debug(number @ 0..=3) => {
                // SAFETY: as the caller promises.
                let all = unsafe { cpu::read_breakpoints() };
                all.get(usize::from(number)).copied()?
            }
            // SAFETY: as the caller promises.
            Place::Debug(6) => unsafe { cpu::read_dr6() },
            // SAFETY: as the caller promises.
            Place::Debug(7) => unsafe { cpu::read_dr7() },
            // SAFETY: as the caller promises.
            Place::Xcr0 => unsafe { cpu::read_xcr0() },
            Place::Flags => {
                let flags: u64;
                // SAFETY: reads the flags.
                unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) }
                // The compiler's own: the results of arithmetic.
                flags & !0x8d5
            }
            Place::Selector(name) => selector(name),
            Place::Table(name) => return Some(table(name)),
            Place::Control(_) | Place::Debug(_) | Place::General | Place::Extended => return None,
        };
        Some(value.into())
    }
}

fn selector(name: SegmentName) -> u64 {
    match name {
        SegmentName::Es => instruction!("mov {:r}, es"),
        SegmentName::Cs => instruction!("mov {:r}, cs"),
        SegmentName::Ss => instruction!("mov {:r}, ss"),
        SegmentName::Ds => instruction!("mov {:r}, ds"),
        SegmentName::Fs => instruction!("mov {:r}, fs"),
        SegmentName::Gs => instruction!("mov {:r}, gs"),
        SegmentName::Ldtr => instruction!("sldt {:r}"),
        SegmentName::Tr => instruction!("str {:r}"),
    }
}

fn table(name: TableName) -> u128 {
    let mut value = Table::default();
    let at = &raw mut value;
    match name {
        // SAFETY: writes ten bytes, which are there.
        TableName::Gdtr => unsafe { asm!("sgdt [{}]", in(reg) at, options(nostack)) },
        // SAFETY: as above.
        TableName::Idtr => unsafe { asm!("sidt [{}]", in(reg) at, options(nostack)) },
    }
    u128::from(value.limit) << 64 | u128::from(value.base)
}
