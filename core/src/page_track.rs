//! Outside users that want to see the guest's writes to some pages.
//!
//! The pages are chosen with [`Vm::track_page`](crate::vm::Vm::track_page); a
//! write to one faults, is emulated, and is then told to every [`Tracker`] that
//! is attached to the VM. Which pages a tracker meant is its own knowledge: it
//! is told of every emulated write.
//!
//! Trackers are found in a read section that may sleep. Who detaches one waits
//! for the sections that were open, so no callback runs on (PT-5).
use waterbear_hal::{Gfn, Gpa, Hal};

use crate::Error;
use crate::lock::Mutex;
use crate::lock_order::TRACKERS;
use crate::mem::{Box, Shared, Vec, boxed, push, room};
use crate::memslot::SpaceId;
use crate::published::Published;

/// What an outside user does about the guest's writes.
///
/// # What a callback may do
///
/// It runs in process context and may sleep. The core holds neither `mmu_lock`
/// nor any other spin lock, and no read section of memory slots (PT-7).
///
/// - It may take locks of its owner's. `slots_lock` may be held around it, so
///   the owner takes those locks under `slots_lock`, and must not wait under
///   them for anything that takes `slots_lock`: not
///   [`Vm::set_region`](crate::vm::Vm::set_region), not a registration's
///   beginning.
/// - It must not wait for `slots_lock` or `slots_arch_lock`: it creates and
///   deletes no slots and reads no dirty log.
/// - It must not register or unregister a tracker of the same VM, itself
///   included: that waits for the callbacks that are running.
/// - For the same reason the owner ends a registration without the locks that
///   its callbacks take.
/// - It may track and untrack pages: once somebody is registered that takes
///   only `mmu_lock`.
pub trait Tracker: Send + Sync {
    /// The guest's write of `bytes` from `gpa` on has been made, by the
    /// emulator: memory holds them, unless they were overwritten since. They
    /// may cross into the next page, and no page of them need be tracked.
    fn track_write(&self, space: SpaceId, gpa: Gpa, bytes: &[u8]);

    /// The `npages` frames from `gfn` on are no memory any more: their slot was
    /// deleted, which can no longer fail, and every mapping of it is gone.
    /// Their counts went with the slot, so there is nothing left to untrack.
    fn track_remove_region(&self, space: SpaceId, gfn: Gfn, npages: u64);
}

/// A handle to a tracker of any type.
pub type TrackerRef<H> = Shared<Box<dyn Tracker, H>, H>;

/// Puts a tracker on the heap. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`]; `tracker` is dropped.
pub fn shared<H: Hal>(hal: &H, tracker: impl Tracker + 'static) -> Result<TrackerRef<H>, Error> {
    let tracker: Box<dyn Tracker, H> = allocator_api2::unsize_box!(boxed(hal, tracker)?);
    Shared::new(hal, tracker)
}

type List<H> = Vec<TrackerRef<H>, H>;

/// The trackers that are attached to a VM.
pub struct Trackers<H: Hal> {
    hal: H,
    /// `[p]` Replaced under `trackers_lock`.
    list: Published<H, List<H>, 1>,
    /// An empty list with room for all that are attached, so that detaching
    /// cannot fail: it fills this one, and the one that it replaces is the
    /// next. `None` only while `trackers_lock` is held.
    spare: Mutex<H, Option<Box<List<H>, H>>>,
}

impl<H: Hal> Trackers<H> {
    /// No trackers. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            list: Published::new(hal, [empty(hal, 0)?])?,
            spare: Mutex::new(hal, &TRACKERS, Some(empty(hal, 0)?))?,
        })
    }

    /// Attaches a tracker: callbacks that begin after this reach it. `ready`
    /// runs when nothing but it can fail any more, and what it returns is kept
    /// until the tracker is attached. May sleep; not in a callback.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when it is attached, [`Error::NoMemory`], and those of
    /// `ready`; nothing has changed.
    pub fn attach<G>(
        &self,
        tracker: &TrackerRef<H>,
        ready: impl FnOnce() -> Result<G, Error>,
    ) -> Result<(), Error> {
        let mut spare = self.spare.lock();
        let (next, room) = {
            let now = self.list.read();
            if now.iter().any(|other| Shared::same(other, tracker)) {
                return Err(Error::Exists);
            }
            let len = now.len() + 1;
            let mut next = empty(&self.hal, len)?;
            now.iter().for_each(|other| push(&mut next, other.clone()));
            push(&mut next, tracker.clone());
            (next, empty(&self.hal, len)?)
        };
        let ready = ready()?;
        let old = self.list.replace(0, next);
        drop(ready);
        old.wait();
        *spare = Some(room);
        Ok(())
    }

    /// Detaches a tracker. When this returns none of its callbacks runs and
    /// none will. Does not allocate. May sleep, as long as a callback takes;
    /// not in a callback. The caller keeps its handle until it returns.
    pub fn detach(&self, tracker: &TrackerRef<H>) {
        let mut spare = self.spare.lock();
        let Some(mut next) = spare.take() else {
            self.hal.bug("there is no list to detach a tracker with");
            return;
        };
        {
            let now = self.list.read();
            let others = now.iter().filter(|other| !Shared::same(other, tracker));
            // There is room for all that are attached.
            others.for_each(|other| push(&mut next, other.clone()));
        }
        let mut old = self.list.replace(0, next).reclaim();
        // Drops no tracker: its registration has a handle to each.
        old.clear();
        *spare = Some(old);
    }

    /// Whether no tracker is attached. May sleep; not in a callback.
    pub fn is_empty(&self) -> bool {
        self.list.read().is_empty()
    }

    /// Calls every tracker that is attached, in the order in which they came.
    /// May sleep; not in a callback.
    pub fn each(&self, call: impl Fn(&dyn Tracker)) {
        for tracker in self.list.read().iter() {
            call(&***tracker);
        }
    }
}

/// A list without trackers and with room for `len`.
fn empty<H: Hal>(hal: &H, len: usize) -> Result<Box<List<H>, H>, Error> {
    boxed(hal, room(hal, len)?)
}
