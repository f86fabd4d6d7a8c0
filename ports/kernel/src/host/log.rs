//! The kernel log.
use core::ffi::c_int;

use waterbear_hal::{Log, Word};

use super::Kernel;
use crate::glue;

/// A line; what does not fit is cut off.
struct Line {
    bytes: [u8; 120],
    length: usize,
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(text) {
            *to = *from;
            self.length += 1;
        }
    }

    fn add_number(&mut self, mut number: u64) {
        const MOST: usize = 20;
        let mut digits = [0; MOST];
        let mut first = MOST;
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            first = place;
            if number == 0 {
                break;
            }
        }
        self.add(digits.get(first..).unwrap_or_default());
    }
}

impl Log for Kernel {
    /// `pr_info_ratelimited`; `printf` under `ppsratecheck`.
    #[inline(never)]
    fn info(&self, message: &[Word]) {
        let mut line = Line {
            bytes: [0; 120],
            length: 0,
        };
        for word in message {
            match word {
                Word::Text(text) => line.add(text.as_bytes()),
                Word::Number(number) => line.add_number(*number),
            }
        }
        // SAFETY: that many bytes are there.
        unsafe { glue::wb_info(line.bytes.as_ptr(), line.length as c_int) }
    }

    /// `WARN_ONCE`; `printf` and `kdb_backtrace`, once.
    #[cold]
    #[inline(never)]
    fn bug(&self, what: &'static str) {
        // SAFETY: that many bytes are there.
        unsafe { glue::wb_bug(what.as_ptr(), what.len() as c_int) }
    }
}
