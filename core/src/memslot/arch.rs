//! Counts that belong to a slot and outlive its replacement.
use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use waterbear_hal::{Gfn, Hal, Hva, Level};

use crate::Error;
use crate::mem::{Box, array};
use crate::once::OnceArray;

/// The reason that never goes away: the large page is not wholly inside the
/// slot, or guest and host addresses are not aligned alike.
const PERMANENT: u32 = 1 << 31;

/// Why huge mappings are forbidden, and which pages are write-tracked.
///
/// The counts change under the write side of `mmu_lock`. The fault path reads
/// them without it and decides again under the lock (PT-4), so every access is
/// Relaxed.
pub struct SlotArch<H: Hal> {
    base: Gfn,
    npages: u64,
    /// For 2 MiB and 1 GiB: per large page that touches the slot, how many
    /// reasons forbid to map it as one, and [`PERMANENT`].
    huge_blocked: [Box<[AtomicU32], H>; 2],
    /// Per frame, how many trackers want to see its writes. There once somebody
    /// tracks anything in this VM (MS-5).
    track: OnceArray<AtomicU16, H>,
    /// A page that the host maps as part of a large one was mapped alone, for
    /// the sake of the dirty log.
    held_back: AtomicBool,
}

impl<H: Hal> SlotArch<H> {
    /// Makes the counts of a slot, all zero. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, base: Gfn, npages: u64, hva: Hva) -> Result<Self, Error> {
        Ok(Self {
            base,
            npages,
            huge_blocked: [
                counts(hal, Level::L2, base, npages, hva)?,
                counts(hal, Level::L3, base, npages, hva)?,
            ],
            track: OnceArray::new(hal, usize::try_from(npages).map_err(|_| Error::NoMemory)?),
            held_back: AtomicBool::new(false),
        })
    }

    /// Whether a mapping at `level` may contain the frame: no reason forbids
    /// it, and the large page is wholly inside the slot (TDP-12).
    pub fn allows(&self, level: Level, gfn: Gfn) -> bool {
        match level {
            Level::L1 => self.offset(gfn).is_some(),
            _ => self
                .huge(level, gfn)
                .is_some_and(|count| count.load(Ordering::Relaxed) == 0),
        }
    }

    /// Notes that a page could have been part of a large mapping but for the
    /// dirty log. Before the page is mapped, under `mmu_lock`.
    pub fn hold_back(&self) {
        self.held_back.store(true, Ordering::Relaxed);
    }

    /// Whether that was noted since the last call. After the log went off, so
    /// that nothing is noted any more.
    pub fn take_held_back(&self) -> bool {
        self.held_back.swap(false, Ordering::Relaxed)
    }

    /// Adds one reason that forbids huge mappings around the frame.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the frame is not in the slot or a count is at
    /// its limit; nothing has changed.
    pub fn block(&self, gfn: Gfn) -> Result<(), Error> {
        self.recount(gfn, |count| {
            (count & !PERMANENT < !PERMANENT).then(|| count + 1)
        })
    }

    /// Takes back what one [`block`](SlotArch::block) of the frame added.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the frame is not in the slot or nothing was
    /// added; nothing has changed.
    pub fn unblock(&self, gfn: Gfn) -> Result<(), Error> {
        self.recount(gfn, |count| (count & !PERMANENT > 0).then(|| count - 1))
    }

    fn recount(&self, gfn: Gfn, change: impl Fn(u32) -> Option<u32>) -> Result<(), Error> {
        let mut done: Option<(&AtomicU32, u32)> = None;
        for level in [Level::L2, Level::L3] {
            let count = self.huge(level, gfn).ok_or(Error::Invalid)?;
            match count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, &change) {
                Ok(old) => done = Some((count, old)),
                Err(_) => {
                    // The writer is alone (`mmu_lock`), so undoing is a store.
                    if let Some((count, old)) = done {
                        count.store(old, Ordering::Relaxed);
                    }
                    return Err(Error::Invalid);
                }
            }
        }
        Ok(())
    }

    /// Allocates the page-track counts unless they are there. May sleep. Called
    /// with `slots_arch_lock` held, or before the slot is published (MS-5).
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; the same call may be made again.
    pub fn activate_track(&self) -> Result<(), Error> {
        self.track.fill(|_| AtomicU16::new(0))
    }

    /// Whether the page-track counts are there.
    pub fn tracks(&self) -> bool {
        self.track.get().is_some()
    }

    /// How many trackers want to see writes to the frame. `None` when the
    /// frame is not in the slot or the counts are not there.
    pub fn track_count(&self, gfn: Gfn) -> Option<&AtomicU16> {
        self.track.get()?.get(self.offset(gfn)?)
    }

    /// Adds a tracker to the frame and says whether it is the first: then huge
    /// mappings around the frame are forbidden from now on (PT-2). Under the
    /// write side of `mmu_lock`.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when a count is at its limit; [`Error::Invalid`] when
    /// the frame is not in the slot or the counts are not there. Nothing has
    /// changed.
    pub fn track(&self, gfn: Gfn) -> Result<bool, Error> {
        let count = self.track_count(gfn).ok_or(Error::Invalid)?;
        // The writer is alone, so a load and a store are enough, here and in
        // `untrack`.
        let old = count.load(Ordering::Relaxed);
        let new = old.checked_add(1).ok_or(Error::Busy)?;
        if old == 0 {
            self.block(gfn).map_err(|_| Error::Busy)?;
        }
        count.store(new, Ordering::Relaxed);
        Ok(old == 0)
    }

    /// Takes a tracker from the frame; with the last one goes the reason that
    /// forbids huge mappings. Under the write side of `mmu_lock`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the frame has none, is not in the slot, or the
    /// counts are not there; nothing has changed.
    pub fn untrack(&self, gfn: Gfn) -> Result<(), Error> {
        let count = self.track_count(gfn).ok_or(Error::Invalid)?;
        let old = count.load(Ordering::Relaxed);
        let new = old.checked_sub(1).ok_or(Error::Invalid)?;
        if new == 0 {
            self.unblock(gfn)?;
        }
        count.store(new, Ordering::Relaxed);
        Ok(())
    }

    fn offset(&self, gfn: Gfn) -> Option<usize> {
        let offset = gfn.0.checked_sub(self.base.0)?;
        (offset < self.npages).then_some(usize::try_from(offset).ok()?)
    }

    /// The count of the large page around the frame.
    fn huge(&self, level: Level, gfn: Gfn) -> Option<&AtomicU32> {
        self.offset(gfn)?;
        let [l2, l3] = &self.huge_blocked;
        let counts = match level {
            Level::L2 => l2,
            Level::L3 => l3,
            _ => return None,
        };
        let shift = level.gfn_shift();
        let index = (gfn.0 >> shift) - (self.base.0 >> shift);
        counts.get(usize::try_from(index).ok()?)
    }
}

/// One count per large page that touches the slot.
fn counts<H: Hal>(
    hal: &H,
    level: Level,
    base: Gfn,
    npages: u64,
    hva: Hva,
) -> Result<Box<[AtomicU32], H>, Error> {
    let pages = level.pages();
    let end = base.0 + npages;
    let first = base.0 / pages;
    let len = end.div_ceil(pages) - first;
    let alike = (base.0 ^ (hva.0 >> PAGE_SHIFT)).is_multiple_of(pages);
    array(
        hal,
        usize::try_from(len).map_err(|_| Error::NoMemory)?,
        |i| {
            let start = (first + i as u64) * pages;
            // TDP-12: a large page that is cut by the slot's edge, or whose
            // host memory is aligned otherwise, is never mapped as one.
            let whole = start >= base.0 && start + pages <= end;
            AtomicU32::new(if whole && alike { 0 } else { PERMANENT })
        },
    )
}
