//! Clocks.

/// Clocks. [`Cpu::tsc`](crate::Cpu::tsc) and [`Cpu::tsc_khz`](crate::Cpu::tsc_khz) belong to them.
pub trait Time {
    /// Nanoseconds since the host was booted, those in which it slept included; never fewer than
    /// before, on any CPU. Any context.
    ///
    /// Linux: `ktime_get_boottime_ns`. FreeBSD: `nanouptime`.
    fn nanoseconds(&self) -> u64;

    /// Nanoseconds since the beginning of 1970, as the host has been told; those since it was
    /// booted if it was not. Any context.
    ///
    /// Linux: `ktime_get_real_ns`. FreeBSD: `nanotime`.
    fn wall_nanoseconds(&self) -> u64;

    /// Whether the time-stamp counters of all CPUs agree, never stop, and count at the rate that
    /// `tsc_khz` tells. Once they do not, they never do again. Any context.
    ///
    /// Linux: `X86_FEATURE_CONSTANT_TSC`, `X86_FEATURE_NONSTOP_TSC`, not `check_tsc_unstable`.
    /// FreeBSD: `tsc_is_invariant`, `smp_tsc`.
    fn tsc_is_stable(&self) -> bool;
}
