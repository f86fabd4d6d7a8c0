//! Clocks.
use waterbear_hal::Time;

use super::Kernel;
use crate::glue;

impl Time for Kernel {
    /// `ktime_get_boottime_ns`; `nanouptime`.
    fn nanoseconds(&self) -> u64 {
        glue::wb_boot_time()
    }

    /// `ktime_get_real_ns`; `nanotime`.
    fn wall_nanoseconds(&self) -> u64 {
        glue::wb_wall_time()
    }

    /// `boot_cpu_has`, `check_tsc_unstable`; `tsc_is_invariant`, `smp_tsc`.
    fn tsc_is_stable(&self) -> bool {
        glue::wb_tsc_is_stable()
    }
}
