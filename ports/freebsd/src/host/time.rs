//! Clocks.
use waterbear_hal::Time;

use super::FreeBsd;
use crate::glue;

impl Time for FreeBsd {
    /// `nanouptime`.
    fn nanoseconds(&self) -> u64 {
        glue::wb_boot_time()
    }

    /// `nanotime`.
    fn wall_nanoseconds(&self) -> u64 {
        glue::wb_wall_time()
    }

    /// `tsc_is_invariant`, `smp_tsc`.
    fn tsc_is_stable(&self) -> bool {
        glue::wb_tsc_is_stable()
    }
}
