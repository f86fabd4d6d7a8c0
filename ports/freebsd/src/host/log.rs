//! The kernel log.
use core::ffi::c_int;
use core::fmt::{Arguments, Result, Write};

use waterbear_hal::Log;

use super::FreeBsd;
use crate::glue;

/// A line; what does not fit is cut off.
pub struct Line {
    bytes: [u8; 120],
    length: usize,
}

impl Line {
    /// The line that says this.
    pub fn new(message: Arguments<'_>) -> Self {
        let mut line = Self {
            bytes: [0; 120],
            length: 0,
        };
        // Never fails.
        let _ = line.write_fmt(message);
        line
    }

    /// What C wants to know of it.
    pub fn parts(&self) -> (*const u8, c_int) {
        (self.bytes.as_ptr(), self.length as c_int)
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> Result {
        let rest = self.bytes.iter_mut().skip(self.length);
        for (to, from) in rest.zip(text.bytes()) {
            *to = from;
            self.length += 1;
        }
        Ok(())
    }
}

impl Log for FreeBsd {
    /// `printf` under `ppsratecheck`.
    fn info(&self, message: Arguments<'_>) {
        let line = Line::new(message);
        let (text, length) = line.parts();
        // SAFETY: that many bytes are there.
        unsafe { glue::wb_info(text, length) }
    }

    /// `printf` and `kdb_backtrace`, once.
    fn bug(&self, what: &'static str) {
        // SAFETY: that many bytes are there.
        unsafe { glue::wb_bug(what.as_ptr(), what.len() as c_int) }
    }
}
