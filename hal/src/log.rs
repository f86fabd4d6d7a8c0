//! The kernel log.
use core::fmt;

/// A piece of a message. A kernel's port puts them together itself: it has no
/// use for the language's formatting, which is large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// As it is.
    Text(&'static str),
    /// In decimal digits.
    Number(u64),
}

/// A whole message, for hosts that do use it.
pub struct Words<'a>(pub &'a [Word]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| match word {
            Word::Text(text) => f.write_str(text),
            Word::Number(number) => number.fmt(f),
        })
    }
}

/// The kernel log.
pub trait Log {
    /// Says something to the administrator: the words one behind the other, with
    /// nothing between them, and without a line end. Any context. The host
    /// limits the rate, and may limit the length to 120 bytes.
    ///
    /// Linux: `pr_info_ratelimited`. FreeBSD: `printf` under `ppsratecheck`.
    fn info(&self, message: &[Word]);

    /// Reports that an invariant of the core does not hold. Nothing that a
    /// guest or a user does may reach it; the caller goes on in the safest way
    /// it has. The mock panics.
    ///
    /// Linux: `WARN_ONCE`. FreeBSD: `KASSERT`, or `printf` with a backtrace.
    fn bug(&self, what: &'static str);
}
