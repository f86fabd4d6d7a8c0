//! The clock that a guest reads from its memory.
//!
//! The guest says where each of its vCPUs wants a record, and computes the time from the record and
//! its time-stamp counter:
//!
//! ```text
//! time = system_time + (tsc - tsc_timestamp) * scale
//! ```
//!
//! Where the host's counters can be relied on, the clock *is* the counter: every record of the VM
//! starts from the counter's value when the VM was made, so all of them agree at every moment, and a
//! record that was written once is right for good. Then a vCPU may be told, by a bit, that the
//! record of another will do, provided that their counters agree. Elsewhere a record starts from
//! the host's own clock now and is written again before each entry.
//!
//! Source: "KVM-specific MSRs" and "KVM CPUID bits" of the kernel's documentation; "The Definitive
//! KVM API Documentation", KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_KVMCLOCK_CTRL.
use waterbear_hal::sync::atomic::{AtomicU64, Ordering};
use waterbear_hal::{Gpa, Hal};

use crate::Error;
use crate::lock::Mutex;
use crate::lock_order::CLOCK;
use crate::memslot::SpaceId;
use crate::request::Request;
use crate::vm::Vm;

/// Bits of EAX of the leaf that tells a guest what its hypervisor has: the clock, by old numbers
/// and by new ones, delays after port accesses are not needed, and the bit in a record means what
/// it says.
const FEATURE_CLOCK: u32 = 1 << 0 | 1 << 3;
const FEATURE_NO_IO_DELAY: u32 = 1 << 1;
const FEATURE_STABLE: u32 = 1 << 24;

/// Bits of a record: those of other vCPUs show the same; the guest was stopped by its owner.
const STABLE: u8 = 1 << 0;
const STOPPED: u8 = 1 << 1;

/// The record, without what is not used.
const RECORD: usize = 32;

const SECOND: u64 = 1_000_000_000;

/// EAX of the leaf 0x40000001 for guests of this host.
pub fn features<H: Hal>(hal: &H) -> u32 {
    let stable = if by_tsc(hal) { FEATURE_STABLE } else { 0 };
    FEATURE_CLOCK | FEATURE_NO_IO_DELAY | stable
}

/// Whether the clock is the time-stamp counter.
pub fn by_tsc<H: Hal>(hal: &H) -> bool {
    hal.tsc_is_stable() && hal.tsc_khz() != 0
}

/// Nanoseconds per tick: `ticks` shifted by `shift`, times `multiplier`, over 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// The factor.
    pub multiplier: u32,
    /// To the left, or to the right if it is negative.
    pub shift: i8,
}

impl Scale {
    /// For a counter of this frequency. One of 0 does not count.
    pub const fn of(khz: u32) -> Self {
        let mut hertz = khz as u64 * 1000;
        let mut shift = 0;
        if hertz == 0 {
            return Self {
                multiplier: 0,
                shift,
            };
        }
        // From 2^31 on, so that no bit of the factor is lost.
        while hertz > 2 * SECOND {
            hertz /= 2;
            shift -= 1;
        }
        while hertz <= SECOND {
            hertz *= 2;
            shift += 1;
        }
        let multiplier = match (SECOND << 32).checked_div(hertz) {
            Some(factor) => factor as u32,
            None => 0,
        };
        Self { multiplier, shift }
    }

    /// How long so many ticks take, as the guest computes it.
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let by = self.shift.unsigned_abs() as u32;
        let shifted = if self.shift < 0 {
            ticks >> (by & 63)
        } else {
            ticks << (by & 63)
        };
        ((shifted as u128 * self.multiplier as u128) >> 32) as u64
    }
}

/// A VM's clock. What is `[a]` has no order that matters: whoever changes it makes a request to
/// each vCPU behind that.
pub struct Clock<H: Hal> {
    /// `[I]` The clock is the time-stamp counter.
    by_tsc: bool,
    /// `[I]` The counter's.
    scale: Scale,
    /// `[I]` What the counter, or the host's clock, showed when the VM was made.
    origin: u64,
    /// `[a]` What the clock showed then, or would have.
    base: AtomicU64,
    /// `[a]` Where the guest wanted the time of its start.
    wall: AtomicU64,
    /// How the time-stamp counters go together of those vCPUs that have a record.
    counters: Mutex<H, Counters>,
}

/// What is known of time-stamp counters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counters {
    Nothing,
    /// They are ahead of the host's by this much.
    Alike(u64),
    Apart,
}

/// A moment, by several clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Nanoseconds of the guest's clock.
    pub guest: u64,
    /// The host's time-stamp counter.
    pub tsc: u64,
    /// Nanoseconds since 1970.
    pub wall: u64,
    /// `guest` is exactly what every vCPU saw.
    pub stable: bool,
}

impl<H: Hal> Clock<H> {
    /// A clock that shows 0 now. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        let by_tsc = by_tsc(hal);
        Ok(Self {
            by_tsc,
            scale: Scale::of(hal.tsc_khz()),
            origin: if by_tsc { hal.tsc() } else { hal.nanoseconds() },
            base: AtomicU64::new(0),
            wall: AtomicU64::new(0),
            counters: Mutex::new(hal, &CLOCK, Counters::Nothing)?,
        })
    }

    /// Nanoseconds since the VM was made, when the counter showed `tsc`, which was now.
    fn elapsed(&self, hal: &H, tsc: u64) -> u64 {
        if self.by_tsc {
            self.scale.nanoseconds(tsc.wrapping_sub(self.origin))
        } else {
            hal.nanoseconds().wrapping_sub(self.origin)
        }
    }

    /// What the clocks show now. May sleep.
    pub fn now(&self, hal: &H) -> Moment {
        let tsc = hal.tsc();
        let base = self.base.load(Ordering::Relaxed);
        Moment {
            guest: base.wrapping_add(self.elapsed(hal, tsc)),
            tsc,
            wall: hal.wall_nanoseconds(),
            stable: self.by_tsc && *self.counters.lock() != Counters::Apart,
        }
    }

    /// Whether a record must be written again before each entry.
    pub(crate) fn expires(&self) -> bool {
        !self.by_tsc
    }

    /// Where the guest wanted the time of its start.
    pub(crate) fn wall(&self) -> u64 {
        self.wall.load(Ordering::Relaxed)
    }
}

impl<H: Hal> Vm<H> {
    /// Sets the guest's clock. Each vCPU sees it when it enters the guest next; one that is in the
    /// guest leaves it for that. May sleep; no lock held.
    pub fn set_clock(&self, nanoseconds: u64) {
        let clock = self.clock();
        let elapsed = clock.elapsed(&self.hal, self.hal.tsc());
        let base = nanoseconds.wrapping_sub(elapsed);
        clock.base.store(base, Ordering::Relaxed);
        // Owners that begin anew set counters, too.
        *clock.counters.lock() = Counters::Nothing;
        self.vcpus().make_request_all(Request::CLOCK);
    }

    /// The guest wants to know at `gpa` when it was started, and to have the address back when it
    /// asks. Context as for [`write_guest`](Vm::write_guest).
    pub(crate) fn write_wall_clock(&self, gpa: u64) {
        self.clock().wall.store(gpa, Ordering::Relaxed);
        if gpa == 0 {
            return;
        }
        let now = self.clock().now(&self.hal);
        let started = now.wall.wrapping_sub(now.guest);
        let body = (started / SECOND) & u64::from(u32::MAX) | (started % SECOND) << 32;
        let mut version = [0; 4];
        self.look(gpa, &mut version);
        self.versioned(gpa, u32::from_le_bytes(version), &body.to_le_bytes());
    }

    /// Writes a vCPU's record, whose time-stamp counter is so far ahead of the host's. `stopped`:
    /// the guest is to know that it did not run for a while. Context as for
    /// [`write_guest`](Vm::write_guest).
    pub(crate) fn write_clock(&self, gpa: u64, tsc_offset: u64, stopped: bool) {
        let clock = self.clock();
        let mut record = [0; RECORD];
        self.look(gpa, &mut record);
        let [v0, v1, v2, v3, ..] = record;
        let base = clock.base.load(Ordering::Relaxed);
        let (tsc, time) = if clock.by_tsc {
            (clock.origin, base)
        } else {
            let tsc = self.hal.tsc();
            (tsc, base.wrapping_add(clock.elapsed(&self.hal, tsc)))
        };
        // The guest clears that it was stopped.
        const FLAGS: usize = 29;
        let kept = record.get(FLAGS).copied().unwrap_or(0) & STOPPED;
        let mut flags = kept | if stopped { STOPPED } else { 0 };
        if self.is_alike(tsc_offset) {
            flags |= STABLE;
        }
        // The version, and nothing; the counter; the time; multiplier, shift, flags, and nothing.
        let last = u64::from(clock.scale.multiplier)
            | u64::from(clock.scale.shift.cast_unsigned()) << 32
            | u64::from(flags) << (8 * (FLAGS - 24));
        let words = [0, tsc.wrapping_add(tsc_offset), time, last].map(u64::to_le_bytes);
        let body = words.as_flattened().get(4..).unwrap_or_default();
        self.versioned(gpa, u32::from_le_bytes([v0, v1, v2, v3]), body);
    }

    /// Whether the time-stamp counters of all vCPUs with a record agree with this one. When it is
    /// the first that does not, all of them have to say so.
    fn is_alike(&self, tsc_offset: u64) -> bool {
        let clock = self.clock();
        if !clock.by_tsc {
            return false;
        }
        {
            let mut counters = clock.counters.lock();
            *counters = match *counters {
                Counters::Nothing => Counters::Alike(tsc_offset),
                Counters::Alike(other) if other != tsc_offset => Counters::Apart,
                known => return known != Counters::Apart,
            };
            if *counters != Counters::Apart {
                return true;
            }
        }
        self.vcpus().make_request_all(Request::CLOCK);
        false
    }

    /// What is in the guest's memory; zeros if there is none.
    fn look(&self, gpa: u64, bytes: &mut [u8]) {
        if self.read_guest(SpaceId::NORMAL, Gpa(gpa), bytes).is_err() {
            bytes.fill(0);
        }
    }

    /// Writes a version and the body behind it: the version is odd while the body changes. A guest
    /// that has no memory there, or takes it away, gets nothing.
    fn versioned(&self, gpa: u64, old: u32, body: &[u8]) {
        // One that is odd was not valid.
        let during = old.wrapping_add(1) | 1;
        let after = during.wrapping_add(1);
        for (at, bytes) in [
            (gpa, &during.to_le_bytes()[..]),
            (gpa.wrapping_add(4), body),
            (gpa, &after.to_le_bytes()),
        ] {
            if self.write_guest(SpaceId::NORMAL, Gpa(at), bytes).is_err() {
                return;
            }
        }
    }
}
