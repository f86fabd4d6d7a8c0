//! Root tables: shared by vCPUs, invalidated together, never revived.
use waterbear_hal::sync::atomic::{AtomicBool, Ordering};
use waterbear_hal::{Gfn, Hal, RcuGuard};

use super::Mmu;
use super::flush::{DirtyLog, Sinks, Tlb};
use super::table::{FreshTable, RootTable, Space, Table};
use super::walk::{Hold, Yielding};
use crate::Error;
use crate::mem::Shared;
use crate::memslot::{ADDRESS_SPACES, SpaceId};

/// What a root is for. Two vCPUs share a root if and only if all of it is
/// equal (TDP-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootRole {
    /// The address space whose slots it maps.
    pub space: SpaceId,
}

/// A root table.
pub struct Root<H: Hal> {
    table: RootTable<H>,
    role: RootRole,
    /// Set once, under the write lock. From then on nothing is installed.
    invalid: AtomicBool,
}

/// A handle to a root. A vCPU holds one as long as hardware may walk it.
pub type RootRef<H> = Shared<Root<H>, H>;

impl<H: Hal> Root<H> {
    /// The frame that hardware is pointed at.
    pub fn pfn(&self) -> waterbear_hal::Pfn {
        self.table.pfn()
    }

    /// What the root is for.
    pub fn role(&self) -> RootRole {
        self.role
    }

    /// Whether the root was invalidated. Stable under `mmu_lock`.
    pub fn is_invalid(&self) -> bool {
        // Relaxed: written under the write lock; the check that counts is
        // made under the read lock.
        self.invalid.load(Ordering::Relaxed)
    }

    pub(crate) fn walk<'r>(
        &'r self,
        space: &'r Space<H>,
        rcu: &'r RcuGuard<'_, H>,
    ) -> Table<'r, H> {
        self.table.walk(space, rcu)
    }
}

/// A role has at most one valid root, and at most one that was invalidated and
/// is still being emptied, because invalidations take turns.
const PLACES: usize = 2 * ADDRESS_SPACES;

/// The roots of a VM, valid and not yet emptied.
pub struct Roots<H: Hal> {
    places: [Option<RootRef<H>>; PLACES],
}

/// Handles to all roots of a VM at one moment.
pub(super) type RootSet<H> = [Option<RootRef<H>>; PLACES];

impl<H: Hal> Roots<H> {
    pub(super) fn new() -> Self {
        Self {
            places: [const { None }; PLACES],
        }
    }

    /// Handles to all roots of an address space, invalid ones too (TDP-9).
    fn snapshot(&self, space: SpaceId) -> RootSet<H> {
        core::array::from_fn(|i| {
            self.places[i]
                .as_ref()
                .filter(|root| root.role.space == space)
                .cloned()
        })
    }

    /// All roots, invalid ones too.
    pub(super) fn iter(&self) -> impl Iterator<Item = &RootRef<H>> {
        self.places.iter().flatten()
    }

    fn find(&self, role: RootRole) -> Option<RootRef<H>> {
        self.iter()
            .find(|root| root.role == role && !root.is_invalid())
            .cloned()
    }
}

impl<H: Hal> Mmu<H> {
    /// A handle to the valid root for `role`, made if there is none. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; [`Error::Again`] while an invalidation is under
    /// way that has not emptied the roots before it.
    pub fn root(&self, role: RootRole) -> Result<RootRef<H>, Error> {
        if let Some(root) = self.lock.read().roots.find(role) {
            return Ok(root);
        }
        let table = RootTable::new(FreshTable::new(&self.space.hal)?);
        let fresh = Shared::new(
            &self.space.hal,
            Root {
                table,
                role,
                invalid: AtomicBool::new(false),
            },
        )?;
        let mut state = self.lock.write();
        if let Some(root) = state.roots.find(role) {
            drop(state);
            return Ok(root);
        }
        match state.roots.places.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(fresh.clone());
                Ok(fresh)
            }
            None => {
                drop(state);
                Err(Error::Again)
            }
        }
    }

    /// All roots of an address space as of now, invalid ones too.
    pub(super) fn roots(&self, space: SpaceId) -> RootSet<H> {
        self.lock.read().roots.snapshot(space)
    }

    /// Makes every root invalid and empties it: faults that are under way
    /// install nothing more, and every vCPU asks for a new root before it
    /// enters the guest again. When this returns nothing is mapped through
    /// them. May sleep. The caller holds `slots_lock`, or is the last user of
    /// the VM: invalidations take turns.
    ///
    /// `logs` are those of the address spaces, in order: what hardware has
    /// marked dirty goes there.
    pub fn invalidate_roots<D: DirtyLog>(&self, tlb: &impl Tlb, logs: [&D; ADDRESS_SPACES]) {
        self.invalidate(Sinks::new(tlb, &()), logs.map(DirtyLog::kept));
    }

    #[inline(never)]
    fn invalidate(&self, sinks: Sinks<'_>, logs: [Option<&dyn DirtyLog>; ADDRESS_SPACES]) {
        {
            let state = self.lock.write();
            for root in state.roots.iter() {
                // Relaxed: under the write lock, see `is_invalid`.
                root.invalid.store(true, Ordering::Relaxed);
            }
            // Under the lock: who makes a new root after this makes a valid
            // one, and who holds an old one has the request pending.
            sinks.reload_roots();
        }
        for (space, log) in SpaceId::ALL.into_iter().zip(logs) {
            // In parallel with faults on valid roots.
            let all = Gfn(0)..self.space.format.end();
            let sinks = sinks.logging(log);
            self.zap_in(sinks, Hold::Shared, space, all, Yielding::Allowed);
        }
        let mut emptied: RootSet<H> = [const { None }; PLACES];
        {
            let mut state = self.lock.write();
            for (place, out) in state.roots.places.iter_mut().zip(&mut emptied) {
                if place.as_ref().is_some_and(|root| root.is_invalid()) {
                    *out = place.take();
                }
            }
        }
        // Freed here, outside the lock, unless a vCPU still holds a handle.
        drop(emptied);
    }
}
