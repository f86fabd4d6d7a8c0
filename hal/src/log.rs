//! The kernel log.
use core::fmt::Arguments;

/// The kernel log.
pub trait Log {
    /// Says something to the administrator, in words, without a line end. Any
    /// context. The host limits the rate.
    ///
    /// Linux: `pr_info_ratelimited`. FreeBSD: `printf` under `ppsratecheck`.
    fn info(&self, message: Arguments<'_>);

    /// Reports that an invariant of the core does not hold. Nothing that a
    /// guest or a user does may reach it; the caller goes on in the safest way
    /// it has. The mock panics.
    ///
    /// Linux: `WARN_ONCE`. FreeBSD: `KASSERT`, or `printf` with a backtrace.
    fn bug(&self, what: &'static str);
}
