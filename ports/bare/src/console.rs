//! The serial console.
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use waterbear_hal::Cpu;
use x86::io::{inb, outb};

use crate::host::Bare;

const COM1: u16 = 0x3f8;
const LINE_CONTROL: u16 = COM1 + 3;
const LINE_STATUS: u16 = COM1 + 5;
const EIGHT_BITS: u8 = 3;
const CAN_SEND: u8 = 1 << 5;
const ALL_SENT: u8 = 1 << 6;

/// Sets the line to eight bits: some emulators send as many as it says.
pub fn init() {
    // SAFETY: the port is the first serial line's on every PC.
    unsafe { outb(LINE_CONTROL, EIGHT_BITS) }
}

/// Waits until everything has left the machine.
pub fn flush() {
    wait_for(ALL_SENT);
}

fn wait_for(status: u8) {
    loop {
        // SAFETY: as in `init`; reading the status has no effect.
        let now = unsafe { inb(LINE_STATUS) };
        if now & status != 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

/// The console as a sink for text.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            wait_for(CAN_SEND);
            // SAFETY: as in `init`.
            unsafe { outb(COM1, byte) }
        }
        Ok(())
    }
}

/// Somebody prints.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// After so many looks a line is printed although another is not finished:
/// whoever prints that one may be what this one reports.
const PATIENCE: u32 = 1 << 22;

/// Prints a line, whole.
pub fn line(text: fmt::Arguments<'_>) {
    let were_on = Bare.irq_disable();
    // Nothing but the console hangs on this lock, so the order of other
    // accesses around it does not matter.
    for _ in 0..PATIENCE {
        if !TAKEN.swap(true, Ordering::Relaxed) {
            break;
        }
        core::hint::spin_loop();
    }
    // The console cannot fail.
    let _ = writeln!(Console, "{text}");
    TAKEN.store(false, Ordering::Relaxed);
    // SAFETY: pairs with the above.
    unsafe { Bare.irq_restore(were_on) }
}

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::console::line(format_args!($($arg)*))
    };
}
pub(crate) use say;
