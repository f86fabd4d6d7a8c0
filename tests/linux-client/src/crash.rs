//! A machine that crashes while guests run on its CPUs.
//!
//! It starts anew with its CPUs as the crash left them, and must come up and host guests again. That
//! it crashed already is in a byte of the clock's memory, which a restart does not touch.
use std::arch::asm;
use std::time::Duration;
use std::{fs, thread};

use crate::node::same;
use crate::running::spin;
use crate::{Outcome, kernel};

/// The clock's ports: the number of a byte, and the byte.
const INDEX: u16 = 0x70;
/// A byte that neither the firmware nor the kernel uses.
const BYTE: u8 = 0x71;
const CRASHED: u8 = 0xc5;

/// Whether this is the start after the crash.
pub fn happened() -> bool {
    permit().is_ok() && read() == CRASHED
}

/// Crashes the machine. Comes back only if that fails.
pub fn crash() -> Outcome {
    permit()?;
    kernel::the_module_loads_and_says_so()?;
    for _ in 0..3 {
        spin()?;
    }
    thread::sleep(Duration::from_millis(500));
    write(CRASHED);
    let asked = fs::write("/proc/sysrq-trigger", "c");
    Err(format!(
        "the kernel was asked to crash and went on: {asked:?}"
    ))
}

pub fn a_machine_that_crashes_under_guests_starts_anew() -> Outcome {
    let found = read();
    write(0);
    same("the mark of the crash", found, CRASHED)
}

/// Lets this process use the ports.
fn permit() -> Outcome {
    // SAFETY: no memory is involved.
    let answer = unsafe { libc::ioperm(INDEX.into(), 2, 1) };
    same("asking for the clock's ports", answer, 0)
}

fn read() -> u8 {
    let byte;
    // SAFETY: the kernel has permitted the ports; they touch no memory.
    unsafe {
        asm!("out dx, al", "inc edx", "in al, dx", inout("edx") u32::from(INDEX) => _,
            inout("al") BYTE => byte, options(nomem, nostack));
    }
    byte
}

fn write(byte: u8) {
    // SAFETY: as above.
    unsafe {
        asm!("out dx, al", "inc edx", "mov al, {0}", "out dx, al", in(reg_byte) byte,
            inout("edx") u32::from(INDEX) => _, inout("al") BYTE => _, options(nomem, nostack));
    }
}
