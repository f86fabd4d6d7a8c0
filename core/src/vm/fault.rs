//! The guest touched memory that is not mapped for it.
//!
//! The order is TDP-8's: note the invalidation sequence, find the page (may
//! sleep), take the lock, see whether what was found still holds, install. All
//! of it happens in one slot read section, so a slot that is removed is not
//! unmapped before the faults that found it are over (MS-3).
use waterbear_hal::sync::atomic::Ordering;
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{Gfn, Gpa, Hal, HostPage, Level};

use super::Vm;
use crate::Error;
use crate::memslot::{Slot, SlotsRead, SpaceId};
use crate::request::Request;
use crate::spte::LeafRights;
use crate::tdp::fast::Access;
use crate::tdp::mmio::MmioHit;
use crate::tdp::{DirtyTracking, FastFault, Goal, Mapped, RootRef, RootRole, TableCache};
use crate::vcpu::Vcpu;

/// What a vCPU keeps for its faults.
pub struct VcpuMmu<H: Hal> {
    cache: TableCache<H>,
    root: Option<RootRef<H>>,
    space: SpaceId,
}

impl<H: Hal> VcpuMmu<H> {
    /// For a vCPU that has not run yet.
    pub fn new() -> Self {
        Self::within(SpaceId::NORMAL)
    }

    /// For faults of nobody in particular, in an address space.
    pub fn within(space: SpaceId) -> Self {
        Self {
            cache: TableCache::new(),
            root: None,
            space,
        }
    }

    /// The address space that the vCPU sees.
    pub fn space(&self) -> SpaceId {
        self.space
    }

    /// The root that hardware is pointed at.
    pub fn root(&self) -> Option<&RootRef<H>> {
        self.root.as_ref()
    }
}

impl<H: Hal> Default for VcpuMmu<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is to be done about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Run the guest again: the access works now, or faults again because
    /// something changed at the same time.
    Resume,
    /// There is no memory, or none that the guest may write: the access goes
    /// to a device.
    Mmio,
    /// The page's writes are tracked, or the CPU's own page walk needs to
    /// write where it may not: the instruction is to be emulated.
    Emulate,
}

impl<H: Hal> Vm<H> {
    /// Gives a vCPU the root that is valid now, and returns it. The vCPU calls
    /// it when [`Request::MMU_RELOAD`] is
    /// pending and when it has none. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Mmu::root`](crate::tdp::Mmu::root).
    pub fn load_root(&self, vcpu: &mut VcpuMmu<H>) -> Result<RootRef<H>, Error> {
        // The old handle goes first: it may be the last to an emptied root.
        vcpu.root = None;
        let root = self.mmu.root(RootRole { space: vcpu.space })?;
        Ok(vcpu.root.insert(root).clone())
    }

    /// Moves a vCPU to another address space. It asks for a root before it
    /// enters the guest again: what hardware was pointed at is no longer held.
    /// The vCPU's thread calls it.
    pub fn switch_space(&self, vcpu: &Vcpu<H>, mmu: &mut VcpuMmu<H>, space: SpaceId) {
        if mmu.space != space {
            mmu.space = space;
            vcpu.requests().make(Request::MMU_RELOAD);
            mmu.root = None;
        }
    }

    /// Handles a fault of the guest at `gpa`. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] when the owner has no memory there, or none it may
    /// write; [`Error::Poisoned`]; [`Error::NoMemory`];
    /// [`Error::Interrupted`] when a signal waits.
    pub fn handle_fault(
        &self,
        vcpu: &mut VcpuMmu<H>,
        gpa: Gpa,
        access: Access,
    ) -> Result<Outcome, Error> {
        let gfn = gpa.gfn();
        // Borrowed: counting one more handle would move a cache line between
        // the CPUs in every fault.
        let (Some(root), cache) = (&vcpu.root, &mut vcpu.cache) else {
            return Ok(Outcome::Resume);
        };
        let slots = self.memslots.read();
        let Some(slot) = slots.set(vcpu.space).by_gfn(gfn) else {
            self.cache_mmio(cache, root, &slots, vcpu.space, gfn)?;
            return Ok(Outcome::Mmio);
        };
        if slot.invalid {
            return Ok(Outcome::Resume);
        }
        // A look without the lock: if it is wrong, one instruction is emulated
        // that need not be, or the decision under the lock corrects it (PT-4).
        let tracked = is_tracked(slot, gfn);
        if access.write && tracked {
            return Ok(Outcome::Emulate);
        }
        if access.write && slot.read_only() {
            // The guest's own page table: nobody could emulate the CPU's walk
            // as a device access, but the instruction that caused it can be
            // emulated, walk included (TDP-15).
            return Ok(if access.guest_walk {
                Outcome::Emulate
            } else {
                Outcome::Mmio
            });
        }
        if self.may_be_there(access)
            && self
                .mmu
                .fast_fault(root, gfn, access, &**slot, slot.logs_dirty())
                == FastFault::Fixed
        {
            return Ok(Outcome::Resume);
        }
        self.map(cache, root, slot, gfn, access, tracked)?;
        Ok(Outcome::Resume)
    }

    /// As [`handle_fault`](Vm::handle_fault), where the page is there and nobody has to be waited
    /// for; says whether the access works now. Does not sleep; interrupts may be off, and the vCPU
    /// may be in guest mode.
    pub fn quick_fault(&self, vcpu: &VcpuMmu<H>, gpa: Gpa, access: Access) -> bool {
        let gfn = gpa.gfn();
        let Some(root) = &vcpu.root else {
            return false;
        };
        let Some(slots) = self.memslots.try_read() else {
            return false;
        };
        let Some(slot) = slots.set(vcpu.space).by_gfn(gfn) else {
            return false;
        };
        let tracked = is_tracked(slot, gfn);
        if slot.invalid || (access.write && (tracked || slot.read_only())) {
            return false;
        }
        if self.may_be_there(access)
            && self
                .mmu
                .fast_fault(root, gfn, access, &**slot, slot.logs_dirty())
                == FastFault::Fixed
        {
            return true;
        }
        if !access.absent {
            return false;
        }
        let snapshot = self.mmu.snapshot();
        let Some(page) = slot
            .hva_of(gfn)
            .and_then(|hva| self.hal.resolve_now(&self.user, hva, access.write))
        else {
            return false;
        };
        let decide = || self.goal(slot, gfn, &page, access, tracked);
        self.mmu
            .try_install((&self.vcpus, &**slot), root, snapshot, decide)
    }

    /// Whether the fast path may find something to give back. Where hardware keeps no accessed
    /// bits, a page whose permissions were put aside looks as if nothing were there.
    fn may_be_there(&self, access: Access) -> bool {
        !access.absent || !self.mmu.format().has_accessed_dirty()
    }

    /// Handles an exit that hardware takes on an MMIO entry. May sleep.
    ///
    /// # Errors
    ///
    /// As [`handle_fault`](Vm::handle_fault).
    pub fn handle_mmio(
        &self,
        vcpu: &mut VcpuMmu<H>,
        gpa: Gpa,
        access: Access,
    ) -> Result<Outcome, Error> {
        if let Some(root) = &vcpu.root {
            let generation = self.memslots.read().set(vcpu.space).mmio_generation();
            if self.mmu.mmio_hit(root, gpa.gfn(), generation) == MmioHit::Current {
                return Ok(Outcome::Mmio);
            }
        }
        self.handle_fault(vcpu, gpa, access)
    }

    /// Maps the page at `gpa` for reading before the guest asks, and says how
    /// large the mapping is. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where there is no memory, [`Error::Again`] while
    /// the slot is on its way out or something changed at the same time
    /// (MS-7), and those of [`handle_fault`](Vm::handle_fault).
    pub fn prefault(&self, vcpu: &mut VcpuMmu<H>, gpa: Gpa) -> Result<Level, Error> {
        let gfn = gpa.gfn();
        if vcpu.root.as_ref().is_none_or(|root| root.is_invalid()) {
            self.load_root(vcpu)?;
        }
        let (Some(root), cache) = (&vcpu.root, &mut vcpu.cache) else {
            return Err(Error::Again);
        };
        let slots = self.memslots.read();
        let slot = slots.set(vcpu.space).by_gfn(gfn).ok_or(Error::NotFound)?;
        if slot.invalid {
            return Err(Error::Again);
        }
        let tracked = is_tracked(slot, gfn);
        let access = Access::default();
        match self.map(cache, root, slot, gfn, access, tracked)? {
            (Mapped::Retry, _) => Err(Error::Again),
            (_, level) => Ok(level),
        }
    }

    /// Finds the page and installs it, or finds that it must be tried again.
    fn map(
        &self,
        cache: &mut TableCache<H>,
        root: &RootRef<H>,
        slot: &Slot<H>,
        gfn: Gfn,
        access: Access,
        tracked: bool,
    ) -> Result<(Mapped, Level), Error> {
        cache.top_up(&self.hal)?;
        let snapshot = self.mmu.snapshot();
        let hva = slot.hva_of(gfn).ok_or(Error::Fault)?;
        let page = self.hal.resolve(&self.user, hva, access.write)?;
        let decide = || self.goal(slot, gfn, &page, access, tracked);
        let sinks = (&self.vcpus, slot);
        let (mapped, level) = self.mmu.install(sinks, root, cache, snapshot, decide);
        // Without notifications the mapping owns the reference.
        if H::HAS_NOTIFIER || mapped != Mapped::Installed {
            // A mapping that is writable, or that the fast path may make so, is
            // written later without our help: the host must know by now.
            let dirty = mapped != Mapped::Retry && page.writable && !slot.read_only();
            self.hal.release(page.pfn, dirty);
        }
        Ok((mapped, level))
    }

    /// What is to be installed. Under the lock.
    #[inline(always)]
    fn goal(
        &self,
        slot: &Slot<H>,
        gfn: Gfn,
        page: &HostPage,
        access: Access,
        tracked: bool,
    ) -> Goal {
        let tracked = if removed(Part::TrackRecheck) {
            tracked
        } else {
            // The counts change under the write lock only (PT-4).
            is_tracked(slot, gfn)
        };
        Goal {
            gfn,
            pfn: page.pfn,
            level: self.level(slot, gfn, page),
            rights: self.rights(slot, page, access, tracked),
            write: access.write,
            exec: access.exec,
        }
    }

    /// The largest level at which the page may be mapped (TDP-12). Under the
    /// lock: the reasons against it change under the write lock only.
    fn level(&self, slot: &Slot<H>, gfn: Gfn, page: &HostPage) -> Level {
        let mut level = page.level.min(self.mmu.max_leaf());
        while let Some(below) = level.below() {
            // The log is kept per 4 KiB.
            if slot.logs_dirty() {
                slot.arch.hold_back();
                return Level::L1;
            }
            let aligned = (page.pfn.0 ^ gfn.0) & (level.pages() - 1) == 0;
            if aligned && slot.arch.allows(level, gfn) {
                break;
            }
            level = below;
        }
        level
    }

    /// What the guest may do with the page. Under the lock, as for the level.
    fn rights(&self, slot: &Slot<H>, page: &HostPage, access: Access, tracked: bool) -> LeafRights {
        let host_writable = page.writable && !slot.read_only();
        let mmu_writable = host_writable && !tracked;
        let unlogged = !slot.logs_dirty() || self.mmu.dirty == DirtyTracking::DirtyBit;
        LeafRights {
            write: mmu_writable && (access.write || unlogged),
            mmu_writable,
            host_writable,
            dirty: access.write,
            uncached: page.uncached,
        }
    }

    /// Notes in the tables that there is no memory at `gfn`, as of the set of
    /// slots in `slots`. Not while the slots change (MS-9).
    #[inline(never)]
    fn cache_mmio(
        &self,
        cache: &mut TableCache<H>,
        root: &RootRef<H>,
        slots: &SlotsRead<'_, H>,
        space: SpaceId,
        gfn: Gfn,
    ) -> Result<(), Error> {
        let generation = slots.set(space).mmio_generation();
        let Some(new) = generation.and_then(|g| self.mmu.format().mmio(g)) else {
            return Ok(());
        };
        if gfn >= self.mmu.format().end() {
            return Ok(());
        }
        cache.top_up(&self.hal)?;
        self.mmu.install_mmio(&self.vcpus, root, cache, gfn, new);
        Ok(())
    }
}

/// Whether somebody wants to see writes to the page.
fn is_tracked<H: Hal>(slot: &Slot<H>, gfn: Gfn) -> bool {
    slot.arch
        .track_count(gfn)
        // Relaxed: see `SlotArch`.
        .is_some_and(|count| count.load(Ordering::Relaxed) != 0)
}
