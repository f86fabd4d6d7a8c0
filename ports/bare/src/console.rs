//! The serial console.
use core::fmt::{self, Write};

use x86::io::{inb, outb};

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
pub struct Console;

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

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => {{
        use core::fmt::Write;
        // The console cannot fail.
        let _ = writeln!($crate::console::Console, $($arg)*);
    }};
}
pub(crate) use say;
