//! Replacing the set: the locks, the order of steps, undoing a failure.
//!
//! An update of one slot:
//!
//! 1. `slots_lock`; check the request against the current set (MS-8).
//! 2. `slots_arch_lock`; read the set, prepare the slot, publish (MS-2).
//! 3. CREATE and FLAGS are published now. DELETE and MOVE have published a copy
//!    that is INVALID; drop `slots_arch_lock`, wait for readers, zap, take the
//!    lock again, prepare, publish the final set or, if that failed, the old
//!    one (MS-3, MS-4).
//! 4. Drop `slots_arch_lock`, wait for readers, take the mark "in progress"
//!    from the generation (MS-9), tell the rest of the VM.
use waterbear_hal::sync::atomic::{AtomicBool, Ordering};
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Hal};

use crate::Error;
use crate::lock::{Mutex, MutexGuard};
use crate::lock_order::{SLOTS, SLOTS_ARCH};
use crate::mem::{Box, Shared};
use crate::published::{Published, Retired, Section};

use super::arch::SlotArch;
use super::dirty::DirtyBitmap;
use super::gate::Gate;
use super::generation::Generation;
use super::hooks::{Change, SlotHooks};
use super::region::{Region, Request};
use super::set::SlotSet;
use super::slot::{ADDRESS_SPACES, Slot, SlotFlags, SpaceId};

/// One more than the highest frame that an address of 64 bits can name.
const GFN_END: u64 = 1 << 52;

/// The memory slots of a VM.
///
/// Locks: `[I]` immutable, `[a]` atomic, `[s]` slots_lock, `[p]` published:
/// replaced under both locks, read in a read section.
pub struct Memslots<H: Hal> {
    /// `[I]`
    hal: H,
    /// `[I]` Frames are below it.
    gfn_end: Gfn,
    /// `[p]`
    sets: Published<H, SlotSet<H>, ADDRESS_SPACES>,
    /// `[a]`
    gate: Gate<H>,
    /// `[s]` The number of frames in all slots.
    slots_lock: Mutex<H, u64>,
    slots_arch_lock: Mutex<H, ()>,
    /// `[a]` Every slot has page-track counts; set under slots_arch_lock.
    track_active: AtomicBool,
}

/// A read section: slots found in it live as long as it does.
pub struct SlotsRead<'a, H: Hal>(Section<'a, H, SlotSet<H>, ADDRESS_SPACES>);

impl<H: Hal> SlotsRead<'_, H> {
    /// The current set of an address space. Two calls may return two sets.
    pub fn set(&self, space: SpaceId) -> &SlotSet<H> {
        self.0.get(space.index())
    }
}

/// Evidence that `slots_lock` is held: no slot changes.
pub struct SlotsGuard<'a, H: Hal>(MutexGuard<'a, H, u64>);

impl<H: Hal> SlotsGuard<'_, H> {
    /// The number of frames in all slots of all address spaces.
    pub fn total_pages(&self) -> u64 {
        *self.0
    }
}

/// What a request means, given the slots as they are.
enum Step<H: Hal> {
    Nothing,
    Create,
    Delete(Shared<Slot<H>, H>),
    Move(Shared<Slot<H>, H>),
    Flags(Shared<Slot<H>, H>),
}

/// A set that is published and not settled yet.
type Replaced<'a, H> = Retired<'a, H, SlotSet<H>, ADDRESS_SPACES>;

impl<H: Hal> Memslots<H> {
    /// Makes the slots of a VM: none. Frames at and above `gfn_end` cannot be
    /// memory, because the CPU or its page tables cannot name them. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, gfn_end: Gfn) -> Result<Self, Error> {
        let first = |space| SlotSet::empty(hal, Generation::first(space));
        Ok(Self {
            hal: hal.clone(),
            gfn_end: gfn_end.min(Gfn(GFN_END)),
            sets: Published::new(hal, [first(SpaceId::NORMAL)?, first(SpaceId::SMM)?])?,
            gate: Gate::new(hal)?,
            slots_lock: Mutex::new(hal, &SLOTS, 0)?,
            slots_arch_lock: Mutex::new(hal, &SLOTS_ARCH, ())?,
            track_active: AtomicBool::new(false),
        })
    }

    /// Opens a read section. It may sleep, does not nest, and is opened before
    /// `slots_arch_lock`, never inside it.
    pub fn read(&self) -> SlotsRead<'_, H> {
        SlotsRead(self.sets.read())
    }

    /// Opens a read section if that needs no wait. Interrupts may be off until
    /// it is closed.
    pub fn try_read(&self) -> Option<SlotsRead<'_, H>> {
        self.sets.try_read().map(SlotsRead)
    }

    /// Takes `slots_lock`: until the guard is dropped no slot changes. May
    /// sleep; not inside a read section.
    pub fn lock(&self) -> SlotsGuard<'_, H> {
        SlotsGuard(self.slots_lock.lock())
    }

    /// Where unmap notifications announce themselves (MS-10).
    pub fn gate(&self) -> &Gate<H> {
        &self.gate
    }

    /// Waits until every read section that is open now has been closed. May
    /// sleep; not inside one, and without `slots_arch_lock`.
    pub fn synchronize(&self) {
        self.sets.synchronize();
    }

    /// Whether every slot has page-track counts.
    ///
    /// True means that every valid slot found in a read section that is open
    /// has them, also in one that was opened before.
    pub fn track_active(&self) -> bool {
        // Acquire: who sees the flag sees the counts. Pairs with
        // `activate_track` (MS-5).
        self.track_active.load(Ordering::Acquire)
    }

    /// Gives page-track counts to every slot of every address space, and to
    /// every slot that comes later (MS-5). May sleep; not inside a read
    /// section. `slots_lock` may be held but need not be (MS-1).
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; some slots may have counts already, which does no
    /// harm, and the same call may be made again.
    pub fn activate_track(&self) -> Result<(), Error> {
        if self.track_active() {
            return Ok(());
        }
        let slots = self.read();
        let _arch = self.lock_arch();
        for space in SpaceId::ALL {
            for slot in slots.set(space).iter() {
                slot.arch.activate_track()?;
            }
        }
        // Release: pairs with `track_active`.
        self.track_active.store(true, Ordering::Release);
        Ok(())
    }

    /// Creates, deletes, moves or changes a slot, as the KVM interface's
    /// SET_USER_MEMORY_REGION says. May sleep; no lock and no read section
    /// held.
    ///
    /// A size of 0 deletes; another base moves; an identical request does
    /// nothing.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: a number is out of range, not a multiple of 4096 or
    ///   wraps; flags are unknown; a slot to delete does not exist; host
    ///   address, size or READONLY of an existing slot would change; a slot
    ///   must not move now.
    /// - [`Error::Exists`]: the frames overlap another slot's.
    /// - [`Error::NoMemory`]. The slots are as before; a slot that was to be
    ///   deleted or moved may have lost its mappings, which fault in again
    ///   (MS-4).
    pub fn set_region(&self, hooks: &impl SlotHooks<H>, region: Region) -> Result<(), Error> {
        let request = region.check(self.gfn_end)?;
        let mut total = self.slots_lock.lock();
        let starts_set = hooks.dirty_log_starts_set();
        match self.plan(hooks, &request, *total)? {
            Step::Nothing => Ok(()),
            Step::Create => {
                let new = self.publish_once(hooks, &request, None, starts_set)?;
                *total = total.saturating_add(new.npages);
                hooks.committed(&Change::Create { new: &new });
                Ok(())
            }
            Step::Flags(old) => {
                let new = self.publish_once(hooks, &request, Some(&old), starts_set)?;
                hooks.committed(&Change::Flags {
                    old: &old,
                    new: &new,
                });
                Ok(())
            }
            Step::Delete(old) => {
                self.publish_twice(hooks, &old, None)?;
                *total = total.saturating_sub(old.npages);
                hooks.committed(&Change::Delete { old: &old });
                Ok(())
            }
            Step::Move(old) => {
                let moved = Some((&request, starts_set));
                if let Some(new) = self.publish_twice(hooks, &old, moved)? {
                    hooks.committed(&Change::Move {
                        old: &old,
                        new: &new,
                    });
                }
                Ok(())
            }
        }
    }

    /// Says what the request means, and checks it against the slots (MS-8).
    /// `slots_lock` is held.
    fn plan(
        &self,
        hooks: &impl SlotHooks<H>,
        request: &Request,
        total: u64,
    ) -> Result<Step<H>, Error> {
        let moves;
        let step = {
            let slots = self.read();
            let set = slots.set(request.space);
            let old = set.by_id(request.id);
            moves = old.is_some_and(|old| old.base != request.base);
            let step = match old {
                None if request.npages == 0 => return Err(Error::Invalid),
                None => {
                    total.checked_add(request.npages).ok_or(Error::Invalid)?;
                    Step::Create
                }
                Some(old) if request.npages == 0 => return Ok(Step::Delete(old.clone())),
                Some(old) => {
                    let changed = old.flags.symmetric_difference(request.flags);
                    if old.hva != request.hva
                        || old.npages != request.npages
                        || changed.contains(SlotFlags::READONLY)
                    {
                        return Err(Error::Invalid);
                    }
                    match (moves, changed.is_empty()) {
                        (true, _) => Step::Move(old.clone()),
                        (false, false) => Step::Flags(old.clone()),
                        (false, true) => return Ok(Step::Nothing),
                    }
                }
            };
            let frames = request.base..request.base.add(request.npages);
            if set.overlapping(frames).any(|other| other.id != request.id) {
                return Err(Error::Exists);
            }
            step
        };
        // PT-6. Asked outside the read section, before anything is published.
        if moves && !hooks.move_allowed() {
            return Err(Error::Invalid);
        }
        Ok(step)
    }

    /// CREATE and FLAGS: one publish (MS-3).
    fn publish_once(
        &self,
        hooks: &impl SlotHooks<H>,
        request: &Request,
        old: Option<&Shared<Slot<H>, H>>,
        starts_set: bool,
    ) -> Result<Shared<Slot<H>, H>, Error> {
        let slots = self.read();
        let arch = self.lock_arch();
        let current = slots.set(request.space);
        let before = current.generation();
        let new = self.prepare(request, old, starts_set)?;
        let set = current.with(&self.hal, request.id, Some(&new), before.next())?;
        drop(slots);
        let replaced = self.publish(request.space, set);
        // MS-2: before waiting for readers.
        drop(arch);
        replaced.wait();
        self.settle(hooks, request.space, before);
        Ok(new)
    }

    /// DELETE and MOVE: publish an INVALID copy, zap, publish without the slot
    /// or with what the request `moved` makes of it (MS-3).
    fn publish_twice(
        &self,
        hooks: &impl SlotHooks<H>,
        old: &Shared<Slot<H>, H>,
        moved: Option<(&Request, bool)>,
    ) -> Result<Option<Shared<Slot<H>, H>>, Error> {
        let space = old.space;
        let slots = self.read();
        let arch = self.lock_arch();
        let current = slots.set(space);
        let before = current.generation();
        let hidden = Shared::new(&self.hal, old.invalid_copy())?;
        let set = current.with(&self.hal, old.id, Some(&hidden), before.next())?;
        drop(slots);
        let mut original = self.publish(space, set);
        // MS-2, MS-3: readers may need the lock, and zapping takes long.
        drop(arch);
        if !removed(Part::SlotsSynchronize) {
            // A fault that saw the valid slot is over before the zap.
            original.wait_for_readers();
        }
        hooks.zap_slot(&hidden);

        let arch = self.lock_arch();
        let last = before.next().next();
        let prepared = moved
            .map(|(request, starts_set)| self.prepare(request, Some(old), starts_set))
            .transpose();
        let made = prepared.and_then(|new| {
            let set = original.get().with(&self.hal, old.id, new.as_ref(), last)?;
            Ok((set, new))
        });
        let (set, result) = match made {
            Ok((set, new)) => (set, Ok(new)),
            // MS-4: the old set comes back. It is at hand, so this cannot fail.
            Err(error) => {
                let mut set = original.reclaim();
                set.renumber(last);
                (set, Err(error))
            }
        };
        let replaced = self.publish(space, set);
        drop(arch);
        replaced.wait();
        self.settle(hooks, space, before);
        result
    }

    /// Makes the slot that is asked for. `slots_arch_lock` is held, so whether
    /// it gets page-track counts is decided once and for all (MS-2, MS-5). A new
    /// dirty bitmap has every bit set if `starts_set`.
    fn prepare(
        &self,
        request: &Request,
        old: Option<&Shared<Slot<H>, H>>,
        starts_set: bool,
    ) -> Result<Shared<Slot<H>, H>, Error> {
        let arch = match old {
            Some(old) if old.base == request.base => old.arch.clone(),
            // A slot that moves has other neighbours and another alignment.
            _ => {
                let arch = SlotArch::new(&self.hal, request.base, request.npages, request.hva)?;
                if self.track_active() {
                    arch.activate_track()?;
                }
                Shared::new(&self.hal, arch)?
            }
        };
        let dirty = match old.and_then(|old| old.dirty.as_ref()) {
            _ if !request.flags.contains(SlotFlags::LOG_DIRTY) => None,
            Some(dirty) => Some(dirty.clone()),
            None => {
                let dirty = DirtyBitmap::new(&self.hal, request.npages, starts_set)?;
                Some(Shared::new(&self.hal, dirty)?)
            }
        };
        Shared::new(
            &self.hal,
            Slot {
                id: request.id,
                space: request.space,
                base: request.base,
                npages: request.npages,
                hva: request.hva,
                flags: request.flags,
                invalid: false,
                arch,
                dirty,
            },
        )
    }

    /// Publishes a set, outside every unmap notification (MS-10). Both locks
    /// are held, no read section is open.
    fn publish(&self, space: SpaceId, set: Box<SlotSet<H>, H>) -> Replaced<'_, H> {
        self.gate.publish(|| self.sets.replace(space.index(), set))
    }

    /// Ends the update that began at generation `before` (MS-9). Nobody uses an
    /// older set any more.
    fn settle(&self, hooks: &impl SlotHooks<H>, space: SpaceId, before: Generation) {
        let now = self.read().set(space).generation();
        if now.wrapped_since(before) {
            hooks.mmio_generation_wrapped(space);
        }
        self.read().set(space).settle();
    }

    /// Takes `slots_arch_lock`; a model's twin goes without.
    fn lock_arch(&self) -> Option<MutexGuard<'_, H, ()>> {
        (!removed(Part::SlotsArchLock)).then(|| self.slots_arch_lock.lock())
    }
}
