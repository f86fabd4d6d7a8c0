//! Clocks.
use waterbear_hal::Time;

use super::Linux;
use crate::glue;

impl Time for Linux {
    /// `ktime_get_boottime_ns`.
    fn nanoseconds(&self) -> u64 {
        glue::wb_boot_time()
    }

    /// `ktime_get_real_ns`.
    fn wall_nanoseconds(&self) -> u64 {
        glue::wb_wall_time()
    }

    /// `boot_cpu_has`, `check_tsc_unstable`.
    fn tsc_is_stable(&self) -> bool {
        glue::wb_tsc_is_stable()
    }
}
