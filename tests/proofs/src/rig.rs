//! A VM on a simulated machine.
use waterbear_core::Error;
use waterbear_core::mem::Shared;
use waterbear_core::memslot::{Region, SlotFlags, SpaceId};
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vm::Vm;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Hva, Level, Pfn};
use waterbear_mock::hw::Walker;
use waterbear_mock::{MapOptions, Mock, MockConfig, Space};

use crate::{Guest, Paging};

/// Where the rig's process has the memory of frame 0.
pub const HVA: Hva = Hva(0x7000_0000_0000);

/// A simulated machine and a VM on it.
///
/// The process has the memory of frame `g`, if any, at [`Rig::hva`]`(g)`.
pub struct Rig<const NOTIFIER: bool = true> {
    /// The VM; first, so that it goes before the machine.
    pub vm: Shared<Vm<Mock<NOTIFIER>>, Mock<NOTIFIER>>,
    /// The memory of the process that owns the VM.
    pub user: Space,
    /// The simulated page walker.
    pub walker: Walker,
    /// The machine.
    pub host: Mock<NOTIFIER>,
}

impl<const NOTIFIER: bool> Rig<NOTIFIER> {
    /// A rig with four levels of tables.
    pub fn new(paging: Paging, dirty: DirtyTracking) -> Self {
        Self::with(MockConfig::default(), paging, Paging::ROOT, dirty)
    }

    /// A rig on a machine of its own.
    pub fn with(
        config: MockConfig,
        paging: Paging,
        root_level: Level,
        dirty: DirtyTracking,
    ) -> Self {
        let host = Mock::<NOTIFIER>::with(config);
        let user = host.new_space();
        let vm = Vm::new(&host, user.clone(), paging.format(root_level), dirty)
            .and_then(|vm| Shared::new(&host, vm))
            .expect("memory does not run out");
        Self {
            vm,
            user,
            walker: paging.walker(root_level),
            host,
        }
    }

    /// Where the process has frame `gfn`.
    pub fn hva(gfn: u64) -> Hva {
        Hva(HVA.0 + gfn * PAGE_SIZE)
    }

    /// Gives the process memory for frames from `gfn` on.
    pub fn back(&self, gfn: u64, pages: u64, options: MapOptions) -> Pfn {
        self.user.map(Self::hva(gfn), pages, options)
    }

    /// Asks for a slot in the normal address space, its memory at the usual
    /// place; 0 pages delete it.
    ///
    /// # Errors
    ///
    /// As the core says.
    pub fn slot(&self, id: u32, gfn: u64, pages: u64, flags: SlotFlags) -> Result<(), Error> {
        self.slot_in(SpaceId::NORMAL, id, gfn, pages, flags)
    }

    /// As [`slot`](Rig::slot), in any address space.
    ///
    /// # Errors
    ///
    /// As the core says.
    pub fn slot_in(
        &self,
        space: SpaceId,
        id: u32,
        gfn: u64,
        pages: u64,
        flags: SlotFlags,
    ) -> Result<(), Error> {
        self.vm.set_region(Region {
            space: space.index() as u32,
            id,
            flags: flags.bits(),
            guest_phys_addr: gfn * PAGE_SIZE,
            memory_size: pages * PAGE_SIZE,
            userspace_addr: Self::hva(gfn).0,
        })
    }

    /// Memory and a slot for it, in one.
    pub fn memory(&self, id: u32, gfn: u64, pages: u64, level: Level) {
        self.back(gfn, pages, MapOptions::WRITABLE.up_to(level));
        self.slot(id, gfn, pages, SlotFlags::empty())
            .expect("the slot is fine");
    }

    /// A new vCPU.
    pub fn guest(&self, index: u32) -> Guest<'_, NOTIFIER> {
        Guest::new(self, index)
    }

    /// Runs `change` as the host's change of the pages behind frames from
    /// `gfn` on, announced to the VM as a host with notifications does.
    pub fn host_change<R>(&self, gfn: u64, pages: u64, change: impl FnOnce() -> R) -> R {
        let range = Self::hva(gfn)..Self::hva(gfn + pages);
        self.vm
            .invalidate_begin(range.clone(), waterbear_core::tdp::walk::Yielding::Allowed);
        let result = change();
        self.vm.invalidate_end(range);
        result
    }

    /// Bits of the dirty log of a slot in the normal address space, as frame
    /// numbers relative to the slot; the log starts anew.
    pub fn dirty_log(&self, id: u32, pages: u64) -> Vec<u64> {
        let mut words = vec![0; pages.div_ceil(64) as usize];
        self.vm
            .read_dirty_log(SpaceId::NORMAL, id, &mut words, true)
            .expect("the slot keeps a log");
        (0..pages)
            .filter(|page| words[(page / 64) as usize] >> (page % 64) & 1 != 0)
            .collect()
    }

    /// The page that the process has behind `gfn` now.
    pub fn backing(&self, gfn: Gfn) -> Option<Pfn> {
        self.user.lookup(Self::hva(gfn.0))
    }

    /// Ends the VM and checks that nothing is left of it.
    pub fn finish(self) {
        let Self { vm, host, user, .. } = self;
        drop(vm);
        drop(user);
        host.assert_no_leaks();
    }
}
