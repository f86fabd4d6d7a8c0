//! A tracker that remembers the last write that it was told of.
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use waterbear_core::memslot::SpaceId;
use waterbear_core::page_track::Tracker;
use waterbear_guests::devices::number;
use waterbear_hal::{Gfn, Gpa};

static WRITES: AtomicU32 = AtomicU32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static SUM: AtomicU32 = AtomicU32::new(0);
static LENGTH: AtomicU32 = AtomicU32::new(0);

/// The tracker. One program at a time uses it, so what it remembers is the program's.
pub struct Told;

impl Told {
    pub fn forget() {
        WRITES.store(0, Ordering::Relaxed);
        SUM.store(0, Ordering::Relaxed);
    }

    pub fn writes() -> u32 {
        WRITES.load(Ordering::Relaxed)
    }

    pub fn address() -> u32 {
        ADDRESS.load(Ordering::Relaxed) as u32
    }

    pub fn bytes() -> u32 {
        BYTES.load(Ordering::Relaxed) as u32
    }

    pub fn sum() -> u32 {
        SUM.load(Ordering::Relaxed)
    }

    pub fn length() -> u32 {
        LENGTH.load(Ordering::Relaxed)
    }
}

impl Tracker for Told {
    fn track_write(&self, _space: SpaceId, gpa: Gpa, bytes: &[u8]) {
        ADDRESS.store(gpa.0, Ordering::Relaxed);
        let first = bytes.get(..bytes.len().min(8)).unwrap_or_default();
        BYTES.store(number(first), Ordering::Relaxed);
        SUM.fetch_add(number(first) as u32, Ordering::Relaxed);
        LENGTH.store(bytes.len() as u32, Ordering::Relaxed);
        WRITES.fetch_add(1, Ordering::Relaxed);
    }

    fn track_remove_region(&self, _space: SpaceId, _gfn: Gfn, _npages: u64) {}
}
