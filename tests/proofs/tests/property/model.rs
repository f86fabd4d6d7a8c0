//! What must be true, kept in the most naive way.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use waterbear_core::Error;

use waterbear_core::tdp::DirtyTracking;
use waterbear_hal::Pfn;
use waterbear_mock::hw::Access;
use waterbear_proofs::Reached;

use crate::op::{Change, Pages, Size};

/// What an access comes to.
pub type Outcome = Result<Reached, Error>;

/// A page of user memory.
#[derive(Clone, Copy)]
pub struct Page {
    pub pfn: Pfn,
    pub writable: bool,
    poisoned: bool,
}

/// Whether a page of a logged slot was written since its bit was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dirty {
    /// Yes, and its bit is set.
    Marked,
    /// Yes, and either its bit is set or hardware's dirty bit still is: the
    /// next read of the log reports it.
    Written,
    /// It was `Written` when its bit was cleared without a look at the log
    /// before. If hardware's dirty bit was set then, it is reported still.
    Perhaps,
}

pub struct Slot {
    pub base: u64,
    pub npages: u64,
    /// The number of its first user page, from `HVA` on; it may be outside of
    /// what the process ever maps.
    pub hva: i128,
    pub flags: u32,
    /// By number in the slot; what is missing is clean.
    pub dirty: Option<BTreeMap<u64, Dirty>>,
    /// Trackers by number in the slot.
    pub tracked: HashMap<u64, u16>,
}

impl Slot {
    pub fn logs(&self) -> bool {
        self.dirty.is_some()
    }

    pub fn read_only(&self) -> bool {
        self.flags & 2 != 0
    }

    pub fn frames(&self) -> Range<u64> {
        self.base..self.base + self.npages
    }

    fn page_of(&self, gfn: u64) -> i128 {
        self.hva + i128::from(gfn - self.base)
    }

    pub fn is_tracked(&self, gfn: u64) -> bool {
        self.tracked
            .get(&(gfn - self.base))
            .is_some_and(|&count| count != 0)
    }

    pub fn dirty_at(&self, gfn: u64) -> Option<Dirty> {
        self.dirty.as_ref()?.get(&(gfn - self.base)).copied()
    }
}

/// What a good request for a slot did.
pub enum Updated {
    Nothing,
    Created,
    Deleted(Range<u64>),
    Moved(Range<u64>),
    Flags { log_stops: bool },
}

pub struct Model {
    pub notifier: bool,
    pub dirty: DirtyTracking,
    pub granule: u64,
    pub end: u64,
    pub slots: [BTreeMap<u32, Slot>; 2],
    pages: Vec<Option<Page>>,
    /// Without notifications: pages that may still be mapped, although the
    /// process has another one there now.
    held: HashMap<(usize, u64), Pfn>,
    /// Frames that have been used, or mapped as if, since they were aged.
    touched: HashSet<(usize, u64)>,
    /// Frames whose mapping must look young.
    young: HashSet<(usize, u64)>,
}

impl Model {
    pub fn new(notifier: bool, dirty: DirtyTracking, size: Size, end: u64) -> Self {
        Self {
            notifier,
            dirty,
            granule: size.granule(),
            end,
            slots: Default::default(),
            pages: vec![None; size.window() as usize],
            held: HashMap::new(),
            touched: HashSet::new(),
            young: HashSet::new(),
        }
    }

    pub fn slot(&mut self, space: u32, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(space as usize)?.get_mut(&id)
    }

    pub fn slot_at(&self, space: usize, gfn: u64) -> Option<&Slot> {
        let mut slots = self.slots[space].values();
        slots.find(|slot| slot.frames().contains(&gfn))
    }

    pub fn slot_at_mut(&mut self, space: usize, gfn: u64) -> Option<&mut Slot> {
        let mut slots = self.slots[space].values_mut();
        slots.find(|slot| slot.frames().contains(&gfn))
    }

    /// The user page behind a frame of a slot.
    pub fn page_at(&self, slot: &Slot, gfn: u64) -> Option<Page> {
        let page = usize::try_from(slot.page_of(gfn)).ok()?;
        *self.pages.get(page)?
    }

    pub fn is_behind(&self, slot: &Slot, gfn: u64, range: Pages) -> bool {
        u64::try_from(slot.page_of(gfn)).is_ok_and(|page| range.contains(page))
    }

    /// What an access comes to that faults.
    pub fn faulting(&self, space: usize, gfn: u64, access: Access) -> Outcome {
        let Some(slot) = self.slot_at(space, gfn) else {
            return Ok(Reached::Device);
        };
        if access.write && slot.is_tracked(gfn) {
            return Ok(Reached::Emulated);
        }
        if access.write && slot.read_only() {
            return Ok(Reached::Device);
        }
        match self.page_at(slot, gfn) {
            None => Err(Error::Fault),
            Some(page) if page.poisoned => Err(Error::Poisoned),
            Some(page) if access.write && !page.writable => Err(Error::Fault),
            Some(page) => Ok(Reached::Page(page.pfn)),
        }
    }

    /// The page that may be mapped besides the one that is right now.
    pub fn held(&self, space: usize, gfn: u64) -> Option<Pfn> {
        self.held.get(&(space, gfn)).copied()
    }

    /// A page was mapped at the frame.
    pub fn mapped(&mut self, space: usize, gfn: u64, pfn: Pfn) {
        if !self.notifier {
            self.held.insert((space, gfn), pfn);
        }
        self.touched.insert((space, gfn));
    }

    /// What adding or taking a tracker comes to; it is carried out if `done`.
    pub fn track(&mut self, space: usize, gfn: u64, add: bool, done: bool) -> Result<(), Error> {
        let slot = self.slot_at_mut(space, gfn).ok_or(Error::NotFound)?;
        let count = slot.tracked.entry(gfn - slot.base).or_default();
        if !add && *count == 0 {
            return Err(Error::Invalid);
        }
        if done {
            *count = if add { *count + 1 } else { *count - 1 };
        }
        Ok(())
    }

    /// Whether somebody tracks one of so many frames around `gfn`.
    pub fn tracks_near(&self, space: usize, gfn: u64, pages: u64) -> bool {
        let first = gfn / pages * pages;
        let mut near = self.slots[space].values().flat_map(|slot| {
            let counts = slot.tracked.iter().filter(|&(_, &count)| count != 0);
            counts.map(|(offset, _)| slot.base + offset)
        });
        near.any(|tracked| (first..first + pages).contains(&tracked))
    }

    /// The guest wrote to the page.
    pub fn written(&mut self, space: usize, gfn: u64) {
        let harvests = self.dirty == DirtyTracking::DirtyBit;
        let Some(slot) = self.slot_at_mut(space, gfn) else {
            return;
        };
        let offset = gfn - slot.base;
        if let Some(dirty) = &mut slot.dirty
            && dirty.get(&offset) != Some(&Dirty::Marked)
        {
            let how = if harvests {
                Dirty::Written
            } else {
                Dirty::Marked
            };
            dirty.insert(offset, how);
        }
    }

    /// The frame was used through a mapping that was not in the TLB.
    pub fn used(&mut self, space: usize, gfn: u64) {
        self.young.insert((space, gfn));
    }

    /// The mappings of these frames are gone.
    pub fn unmapped(&mut self, space: usize, frames: &Range<u64>) {
        self.held
            .retain(|&(s, gfn), _| s != space || !frames.contains(&gfn));
        self.forget_young(space, frames);
    }

    /// Whatever mapping is there need not look young.
    fn forget_young(&mut self, space: usize, frames: &Range<u64>) {
        let wide = self.widened(frames);
        self.young
            .retain(|&(s, gfn)| s != space || !wide.contains(&gfn));
    }

    pub fn everything_unmapped(&mut self) {
        self.held.clear();
        self.young.clear();
    }

    /// Everything may have been unmapped.
    pub fn perhaps_unmapped(&mut self) {
        self.young.clear();
    }

    /// The core may have mapped the page behind the frame.
    pub fn collapsed(&mut self, space: usize, gfn: u64) {
        self.touched.insert((space, gfn));
    }

    /// As far as the largest mappings that touch the range reach.
    fn widened(&self, frames: &Range<u64>) -> Range<u64> {
        frames.start / self.granule * self.granule..frames.end.next_multiple_of(self.granule)
    }

    /// The frames that have a page in the range.
    fn frames_behind(&self, range: Pages) -> Vec<(usize, Range<u64>)> {
        let mut all = Vec::new();
        for (space, slots) in self.slots.iter().enumerate() {
            for slot in slots.values() {
                let first = i128::from(range.first).max(slot.hva);
                let end =
                    i128::from(range.first + range.pages).min(slot.hva + i128::from(slot.npages));
                if first < end {
                    let gfn = |page| slot.base + (page - slot.hva) as u64;
                    all.push((space, gfn(first)..gfn(end)));
                }
            }
        }
        all
    }

    /// What the age of the range may be: (may be young, must be young).
    pub fn age(&mut self, range: Pages, clear: bool) -> (bool, bool) {
        let mut answer = (false, false);
        for (space, frames) in self.frames_behind(range) {
            let wide = self.widened(&frames);
            let any = |set: &HashSet<(usize, u64)>, frames: &Range<u64>| {
                set.iter()
                    .any(|&(s, gfn)| s == space && frames.contains(&gfn))
            };
            answer.0 |= any(&self.touched, &wide);
            answer.1 |= any(&self.young, &frames);
            if clear {
                self.touched
                    .retain(|&(s, gfn)| s != space || !frames.contains(&gfn));
                self.forget_young(space, &frames);
            }
        }
        answer
    }

    /// The host changed its tables. `fresh` is the first of the new pages.
    pub fn change(&mut self, range: Pages, change: Change, fresh: Option<Pfn>) {
        for number in range.first..range.first + range.pages {
            let page = &mut self.pages[number as usize];
            match (change, &mut *page) {
                (Change::Map { writable, .. }, _) => {
                    *page = fresh.map(|pfn| Page {
                        pfn: pfn.add(number - range.first),
                        writable,
                        poisoned: false,
                    });
                }
                (Change::Unmap, _) => *page = None,
                (Change::Protect { writable }, Some(page)) => page.writable = writable,
                (Change::Poison, Some(page)) => page.poisoned = true,
                (Change::Limit { .. } | Change::Protect { .. } | Change::Poison, _) => {}
            }
        }
    }

    /// What was mapped of the range is gone.
    pub fn zapped_behind(&mut self, range: Pages) {
        for (space, frames) in self.frames_behind(range) {
            self.unmapped(space, &frames);
        }
    }

    /// Whether mapping `level_pages` frames around `gfn` as one is right: all
    /// in the slot, and consecutive pages behind them (TDP-12).
    pub fn may_be_large(&self, space: usize, gfn: u64, level_pages: u64) -> bool {
        let first = gfn / level_pages * level_pages;
        let Some(slot) = self.slot_at(space, gfn) else {
            return false;
        };
        if first < slot.base || first + level_pages > slot.frames().end {
            return false;
        }
        let Some(page) = self.page_at(slot, first) else {
            return false;
        };
        page.pfn.0.is_multiple_of(level_pages)
            && (0..level_pages).all(|i| {
                self.page_at(slot, first + i).is_some_and(|p| {
                    p.pfn == page.pfn.add(i) && p.writable == page.writable && !p.poisoned
                })
            })
    }
}
