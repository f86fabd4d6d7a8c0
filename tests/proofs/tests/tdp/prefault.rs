//! Mappings made before the guest asks.
use std::sync::Arc;

use waterbear_core::Error;
use waterbear_core::memslot::{Change, Region, Slot, SlotFlags, SlotHooks, SpaceId};
use waterbear_core::vm::{VcpuMmu, Vm};
use waterbear_hal::{Gfn, Level};
use waterbear_mock::hw::Access;
use waterbear_mock::{MapOptions, Mock};
use waterbear_proofs::{Reached, Rig};

use crate::support::{Case, cases, end, mapping, on_both_hosts, on_each, root};

/// Proves TDP-12, MS-7.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_prefault_maps_like_a_read_and_says_how_large() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 512 * 512, Level::L3);
        rig.memory(1, 512 * 512, 1024, Level::L2);
        rig.memory(2, 1 << 20, 16, Level::L1);
        let mut guest = rig.guest(0);
        // Its first entry turns back: it comes to a CPU for the first time.
        assert_eq!(guest.access(1 << 22, Access::READ), Ok(Reached::Device));
        for (gfn, level) in [
            (77, Level::L3),
            (512 * 512 + 600, Level::L2),
            ((1 << 20) + 3, Level::L1),
        ] {
            for _ in 0..2 {
                let prefault = rig.vm.prefault(&mut guest.mmu, Gfn(gfn).gpa());
                assert_eq!(prefault, Ok(level));
            }
            let exits = guest.exits;
            assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
            assert_eq!(guest.exits, exits, "it was mapped");
            assert_eq!(mapping(rig, root(&guest), gfn).unwrap().level, level);
        }
        let nothing = rig.vm.prefault(&mut guest.mmu, Gfn(1 << 21).gpa());
        assert_eq!(nothing, Err(Error::NotFound));
        // Where a larger mapping is there already, it says so.
        rig.slot(1, 512 * 512, 1024, SlotFlags::LOG_DIRTY).unwrap();
        let prefault = rig.vm.prefault(&mut guest.mmu, Gfn(512 * 512 + 5).gpa());
        assert_eq!(prefault, Ok(Level::L1), "not mapped before");
        let prefault = rig.vm.prefault(&mut guest.mmu, Gfn(512 * 512 + 600).gpa());
        assert_eq!(prefault, Ok(Level::L2));
    });
}

/// Proves TDP-13, MS-7.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_prefault_dirties_nothing() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        let mut mmu = VcpuMmu::new();
        for gfn in 0..16 {
            assert_eq!(rig.vm.prefault(&mut mmu, Gfn(gfn).gpa()), Ok(Level::L1));
        }
        assert_eq!(rig.dirty_log(0, 16), []);
        let mut guest = rig.guest(0);
        guest.write(3);
        assert_eq!(rig.dirty_log(0, 16), [3]);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 16);
        rig.user
            .fail_next_resolve(waterbear_hal::ResolveError::Interrupted);
        let result = rig.vm.prefault(&mut mmu, Gfn(3).gpa());
        assert_eq!(result, Err(Error::Interrupted));
    }
    on_both_hosts!(test);
}

/// A VM that prefaults while one of its slots is on its way out.
struct Deleting<'a, const N: bool> {
    vm: &'a Vm<Mock<N>>,
    seen: std::cell::Cell<u32>,
}

impl<const N: bool> SlotHooks<Mock<N>> for Deleting<'_, N> {
    fn zap_slot(&self, slot: &Slot<Mock<N>>) {
        for zapped in [false, true] {
            if zapped {
                self.vm.zap_slot(slot);
            }
            let mut mmu = VcpuMmu::within(slot.space);
            let result = self.vm.prefault(&mut mmu, Gfn(3).gpa());
            assert_eq!(result, Err(Error::Again));
            self.seen.set(self.seen.get() + 1);
        }
        assert_eq!(self.vm.mmu().mapped(Level::L1), 0);
    }
    fn committed(&self, change: &Change<'_, Mock<N>>) {
        self.vm.committed(change);
    }
    fn mmio_generation_wrapped(&self, space: SpaceId) {
        self.vm.mmio_generation_wrapped(space);
    }
}

/// Proves MS-7, BUG-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_prefault_in_a_slot_that_is_being_deleted_says_again_and_returns() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        let hooks = Deleting {
            vm: &rig.vm,
            seen: 0.into(),
        };
        let delete = Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: 0,
            userspace_addr: 0,
        };
        rig.vm.memslots().set_region(&hooks, delete).unwrap();
        assert_eq!(hooks.seen.get(), 2);
        let result = rig.vm.prefault(&mut guest.mmu, Gfn(3).gpa());
        assert_eq!(result, Err(Error::NotFound));
    }
    on_both_hosts!(test);
}

/// Proves TDP-8, BUG-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_prefault_that_meets_a_change_says_again_and_returns() {
    fn test<const N: bool>(case: Case) {
        let rig = Arc::new(case.rig::<N>());
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(1);
        let inside = Arc::clone(&rig);
        // Each time it looks, the page changes.
        rig.user.on_resolve(move |_| {
            std::thread::scope(|scope| {
                scope
                    .spawn(|| inside.host_change(3, 1, || inside.back(3, 1, MapOptions::WRITABLE)));
            });
        });
        for _ in 0..3 {
            let result = rig.vm.prefault(&mut guest.mmu, Gfn(3).gpa());
            assert_eq!(result, Err(Error::Again));
            assert_eq!(guest.step(3, Access::READ), Ok(None));
        }
        rig.user.clear_hooks();
        assert_eq!(rig.vm.prefault(&mut guest.mmu, Gfn(3).gpa()), Ok(Level::L1));
        drop(guest);
        end(Arc::into_inner(rig).unwrap());
    }
    for case in cases() {
        test::<true>(case);
        test::<false>(case);
    }
}

/// Proves TDP-9.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_prefault_without_a_valid_root_gets_one() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        assert_eq!(rig.vm.prefault(&mut guest.mmu, Gfn(3).gpa()), Ok(Level::L1));
        let first = root(&guest);
        guest.write(3);
        assert_eq!(root(&guest), first);
        rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]);
        assert_eq!(rig.vm.prefault(&mut guest.mmu, Gfn(3).gpa()), Ok(Level::L1));
        assert!(!guest.mmu.root().unwrap().is_invalid());
        assert_eq!(Some(guest.write(3)), rig.backing(Gfn(3)));
    }
    on_both_hosts!(test);
}
