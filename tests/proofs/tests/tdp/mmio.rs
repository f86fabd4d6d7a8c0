//! Entries that say "no memory here".
use waterbear_core::Error;
use waterbear_core::mem::Shared;
use waterbear_core::memslot::{Change, Region, Slot, SlotFlags, SlotHooks, SpaceId};
use waterbear_core::tdp::TableCache;
use waterbear_core::tdp::mmio::MmioHit;
use waterbear_core::vm::Vm;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::hw::{Access, FaultKind};
use waterbear_mock::{MapOptions, Mock, MockConfig};
use waterbear_proofs::{Guest, Paging, Reached, Rig};

use crate::support::{Case, Look, Watch, end, mapping, on_both_hosts, on_each, peek, root};

const DEVICE: u64 = 0x9999;

/// Whether an MMIO entry stands at `gfn`.
fn is_cached<const N: bool>(rig: &Rig<N>, guest: &Guest<'_, N>, gfn: u64) -> bool {
    let found = peek(&rig.walker, &Look(&rig.host), root(guest), gfn);
    found.is_err_and(|fault| fault.kind == FaultKind::Broken)
}

/// What the tables say of `gfn` as of the slots now.
fn hit<const N: bool>(rig: &Rig<N>, guest: &Guest<'_, N>, gfn: u64) -> MmioHit {
    let root = guest.mmu.root().unwrap();
    let generation = rig
        .vm
        .memslots()
        .read()
        .set(SpaceId::NORMAL)
        .mmio_generation();
    rig.vm.mmu().mmio_hit(root, Gfn(gfn), generation)
}

/// Proves MS-9.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_device_access_is_remembered_until_the_slots_change() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(1);
        for _ in 0..2 {
            assert_eq!(guest.access(DEVICE, Access::WRITE), Ok(Reached::Device));
            assert!(is_cached(rig, &guest, DEVICE));
            assert_eq!(hit(rig, &guest, DEVICE), MmioHit::Current);
        }
        // A change somewhere else makes it old, and the next access new.
        rig.memory(1, 0x100, 16, Level::L1);
        assert_eq!(hit(rig, &guest, DEVICE), MmioHit::Stale);
        assert_eq!(guest.access(DEVICE, Access::READ), Ok(Reached::Device));
        assert_eq!(hit(rig, &guest, DEVICE), MmioHit::Current);
        // Memory in its place is reached at once.
        rig.memory(2, DEVICE, 1, Level::L1);
        assert_eq!(Some(guest.write(DEVICE)), rig.backing(Gfn(DEVICE)));
        rig.slot(2, DEVICE, 0, SlotFlags::empty()).unwrap();
        assert_eq!(guest.access(DEVICE, Access::WRITE), Ok(Reached::Device));
    }
    on_both_hosts!(test);
}

/// A VM whose updates can be watched from inside.
struct Inside<'a, const N: bool> {
    vm: &'a Vm<Mock<N>>,
    during: &'a dyn Fn(),
}

impl<const N: bool> SlotHooks<Mock<N>> for Inside<'_, N> {
    fn zap_slot(&self, slot: &Slot<Mock<N>>) {
        (self.during)();
        self.vm.zap_slot(slot);
        (self.during)();
    }
    fn committed(&self, change: &Change<'_, Mock<N>>) {
        self.vm.committed(change);
    }
    fn mmio_generation_wrapped(&self, space: SpaceId) {
        (self.during)();
        self.vm.mmio_generation_wrapped(space);
        (self.during)();
    }
}

/// The slot 0 of 16 frames, or its deletion.
fn region<const N: bool>(pages: u64) -> Region {
    Region {
        space: 0,
        id: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: pages << 12,
        userspace_addr: Rig::<N>::hva(0).0,
    }
}

/// Proves MS-9, BUG-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn nothing_is_remembered_and_nothing_believed_while_the_slots_change() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let guest = std::cell::RefCell::new(rig.guest(0));
        let mut number = 0;
        for _ in 0..2 {
            let old = DEVICE + number;
            number += 1;
            let fresh = DEVICE + number;
            assert_eq!(
                guest.borrow_mut().access(old, Access::READ),
                Ok(Reached::Device)
            );
            let inside = std::cell::Cell::new(0);
            let during = || {
                let guest = &mut *guest.borrow_mut();
                inside.set(inside.get() + 1);
                assert_eq!(hit(rig, guest, old), MmioHit::Stale);
                for gfn in [old, fresh] {
                    assert_eq!(guest.access(gfn, Access::READ), Ok(Reached::Device));
                }
                assert!(!is_cached(rig, guest, fresh), "remembered during an update");
            };
            let hooks = Inside {
                vm: &rig.vm,
                during: &during,
            };
            rig.vm
                .memslots()
                .set_region(&hooks, region::<N>(0))
                .unwrap();
            assert!(inside.get() >= 2);
            rig.vm
                .memslots()
                .set_region(&hooks, region::<N>(16))
                .unwrap();
        }
    }
    on_both_hosts!(test);
}

/// Proves MS-9, TDP-9, BUG-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn before_a_generation_comes_again_every_old_mmio_entry_is_gone() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.memory(1, 0x100, 16, Level::L1);
        let mut guest = rig.guest(0);
        let number = || {
            rig.vm
                .memslots()
                .read()
                .set(SpaceId::NORMAL)
                .mmio_generation()
                .unwrap()
        };
        let mut wraps = 0;
        for update in 0..120 {
            guest.write(0x101);
            assert_eq!(
                guest.access(DEVICE + update, Access::READ),
                Ok(Reached::Device)
            );
            let (before, old) = (number(), guest.mmu.root().unwrap().clone());
            let pages = if update % 2 == 0 { 16 } else { 0 };
            rig.vm.set_region(region::<N>(pages)).unwrap();
            if number() < before {
                wraps += 1;
                assert!(old.is_invalid());
                for gfn in DEVICE..=DEVICE + update {
                    let found = peek(&rig.walker, &Look(&rig.host), old.pfn(), gfn);
                    assert_eq!(found.unwrap_err().kind, FaultKind::NotPresent);
                }
                assert_eq!(mapping(rig, old.pfn(), 0x101), None);
            } else {
                assert!(!old.is_invalid(), "update {update}");
            }
        }
        assert_eq!(wraps, 1, "a new VM wraps early");
    }
    on_both_hosts!(test);
}

/// Proves TDP-5, TDP-6, BUG-9.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn an_mmio_entry_replaces_a_mapping_only_after_the_mapping_is_gone_from_every_tlb() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 1024, Level::L2);
        let mut guest = rig.guest(0);
        let page = guest.write(3);
        let large = mapping(rig, root(&guest), 3).unwrap().level;
        assert_eq!(large, if N { Level::L2 } else { Level::L1 });
        guest.write(700);
        let top = guest.mmu.root().unwrap().clone();
        let mmio = rig.vm.mmu().format().mmio(5).unwrap();
        let hook = || {
            // The mapping is out of the tables, nothing is in its place, and
            // its page is still there.
            let found = peek(&rig.walker, &Look(&rig.host), top.pfn(), 3);
            assert_eq!(found.unwrap_err().kind, FaultKind::NotPresent, "{case:?}");
            assert!(rig.host.is_live(page));
            assert_eq!(rig.host.references(page), u64::from(!N));
        };
        let watch = Watch::at_flush(rig, &hook);
        let mut cache = TableCache::new();
        cache.top_up(&rig.host).unwrap();
        let mmu = rig.vm.mmu();
        mmu.install_mmio(&watch, &top, &mut cache, Gfn(3), mmio);
        assert_eq!(watch.count(), 1);
        assert!(watch.flushed(3));
        assert!(is_cached(rig, &guest, 3));
        assert_eq!(rig.host.references(page), 0);
        assert!(mapping(rig, top.pfn(), 700).is_some());
        // Again is nothing.
        mmu.install_mmio(&watch, &top, &mut cache, Gfn(3), mmio);
        assert_eq!(watch.count(), 1);
        // And memory comes back in its place without a flush.
        assert_eq!(guest.write(3), page);
        // Into an invalid root nothing is put.
        mmu.invalidate_roots(rig.vm.vcpus(), [&(), &()]);
        mmu.install_mmio(&watch, &top, &mut cache, Gfn(3), mmio);
        let found = peek(&rig.walker, &Look(&rig.host), top.pfn(), 3);
        assert_eq!(found.unwrap_err().kind, FaultKind::NotPresent);
    }
    on_both_hosts!(test);
}

/// Proves MS-9, TDP-7.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_zap_takes_mmio_entries_too() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        assert_eq!(guest.access(DEVICE, Access::READ), Ok(Reached::Device));
        assert!(is_cached(rig, &guest, DEVICE));
        let vm = &rig.vm;
        let watch = Watch::new(rig);
        vm.mmu().zap(
            &watch,
            &(),
            SpaceId::NORMAL,
            Gfn(DEVICE)..Gfn(DEVICE + 1),
            waterbear_core::tdp::walk::Yielding::Allowed,
        );
        assert!(!is_cached(rig, &guest, DEVICE));
        assert_eq!(watch.count(), 0, "hardware does not cache it");
    }
    on_both_hosts!(test);
}

/// Proves TDP-15.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_cpu_without_reserved_bits_asks_about_every_device_access() {
    use waterbear_core::tdp::DirtyTracking::WriteProtect;
    let formats = [
        (
            Paging::Ept,
            waterbear_vmx::ept::entry_format(waterbear_vmx::ept::EptFeatures {
                root_level: Level::L4,
                physical_bits: 52,
                large_2m: true,
                large_1g: true,
                accessed_dirty: true,
            }),
        ),
        (
            Paging::Npt,
            waterbear_svm::npt::entry_format(waterbear_svm::npt::NptFeatures {
                root_level: Level::L4,
                physical_bits: 52,
                large_1g: true,
            }),
        ),
    ];
    for (paging, format) in formats {
        let host = Mock::<true>::with(MockConfig::default());
        let user = host.new_space();
        let vm = Vm::new(&host, user.clone(), format.unwrap(), WriteProtect).unwrap();
        let vm = Shared::new(&host, vm).unwrap();
        let mut walker = paging.walker(Level::L4);
        walker.maxphyaddr = 52;
        let rig = Rig {
            vm,
            user,
            walker,
            host,
        };
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        for _ in 0..3 {
            assert_eq!(guest.access(DEVICE, Access::WRITE), Ok(Reached::Device));
            let found = peek(&rig.walker, &Look(&rig.host), root(&guest), DEVICE);
            assert_eq!(found.unwrap_err().kind, FaultKind::NotPresent);
        }
        let prefault = rig.vm.prefault(&mut guest.mmu, Gfn(DEVICE).gpa());
        assert_eq!(prefault, Err(Error::NotFound));
        drop(guest);
        end(rig);
    }
    on_each::<true>(|_, rig| assert!(rig.vm.mmu().format().mmio(0).is_some()));
}
