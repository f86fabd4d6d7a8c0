//! The guests' time-stamp counters: how fast they are, and that those of a VM agree.
//!
//! A guest's counter is the host's and an offset. An owner sets the counters of its vCPUs one after
//! another, and cannot set them to the same value at the same moment. So what it sets is taken for
//! what it means: 0, or nearly what another vCPU's counter shows now, is that counter.
use waterbear_hal::Hal;
use waterbear_hal::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Answer, DONE, Reply};
use crate::Error;

/// What the vCPUs of a VM have in common. All of it is `[a]`: whoever depends on the order of two
/// commands waits for the first.
pub(super) struct VmTsc {
    /// The offset that an owner set last, or the first one.
    offset: AtomicU64,
    /// How fast the counter of the next vCPU is, in kHz.
    khz: AtomicU32,
}

impl VmTsc {
    /// Counters that begin at 0 now.
    pub(super) fn new<H: Hal>(hal: &H) -> Self {
        Self {
            offset: AtomicU64::new(hal.tsc().wrapping_neg()),
            khz: AtomicU32::new(hal.tsc_khz()),
        }
    }

    /// The offset of a new vCPU.
    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// The frequency of a new vCPU's counter, in kHz.
    pub(super) fn khz(&self) -> u32 {
        self.khz.load(Ordering::Relaxed)
    }

    /// The offset of a counter that an owner sets.
    pub(super) fn offset_for<H: Hal>(&self, hal: &H, value: u64) -> u64 {
        let now = hal.tsc();
        let old = self.offset();
        let apart = value.wrapping_sub(now.wrapping_add(old)).cast_signed();
        let second = u64::from(hal.tsc_khz()) * 1000;
        if value == 0 || apart.unsigned_abs() < second {
            return old;
        }
        let new = value.wrapping_sub(now);
        self.offset.store(new, Ordering::Relaxed);
        new
    }

    /// GET_TSC_KHZ of the VM.
    pub(super) fn get(&self) -> Answer {
        Ok(Reply::Value(self.khz()))
    }

    /// SET_TSC_KHZ of the VM.
    pub(super) fn set<H: Hal>(&self, hal: &H, khz: u64) -> Answer {
        self.khz.store(frequency(hal, khz)?, Ordering::Relaxed);
        DONE
    }
}

/// The frequency that an owner asks for, if the counters have it without scaling, that is, within
/// 250 millionths. 0 asks for the host's.
pub(super) fn frequency<H: Hal>(hal: &H, khz: u64) -> Result<u32, Error> {
    const TOLERANCE: u64 = 250;
    const MILLION: u64 = 1_000_000;
    let host = hal.tsc_khz();
    // The interface has 32 bits of it.
    let khz = khz as u32;
    if khz == 0 {
        return Ok(host);
    }
    if u64::from(khz.abs_diff(host)) * MILLION > u64::from(host) * TOLERANCE {
        return Err(Error::Invalid);
    }
    Ok(khz)
}
