//! The lockless fast path.
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::FastFault::{self, Fixed, Slow};
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Guest, Paging, Rig};

use crate::support::{Case, mapping, on_both_hosts, on_each, root};

const READ: Wanted = Wanted {
    write: false,
    exec: false,
    guest_walk: false,
    absent: false,
};
const WRITE: Wanted = Wanted {
    write: true,
    ..READ
};
const EXEC: Wanted = Wanted { exec: true, ..READ };

/// One look of the fast path, with the slot's log. No lock is taken.
fn fast<const N: bool>(rig: &Rig<N>, guest: &Guest<'_, N>, gfn: u64, access: Wanted) -> FastFault {
    let slots = rig.vm.memslots().read();
    let slot = slots.set(SpaceId::NORMAL).by_gfn(Gfn(gfn)).unwrap();
    let held = rig.host.held_locks();
    let root = guest.mmu.root().unwrap();
    let found = rig
        .vm
        .mmu()
        .fast_fault(root, Gfn(gfn), access, &**slot, slot.logs_dirty());
    assert_eq!(rig.host.held_locks(), held);
    found
}

/// Proves TDP-11, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_fast_path_gives_back_w_after_write_protection_and_logs_the_write() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        assert_eq!(fast(rig, &guest, 3, READ), Fixed);
        assert_eq!(rig.dirty_log(0, 16), []);
        assert_eq!(fast(rig, &guest, 3, WRITE), Fixed);
        assert!(mapping(rig, root(&guest), 3).unwrap().allows.write);
        guest.write(3);
        assert_eq!(rig.dirty_log(0, 16), [3]);
        assert_eq!(fast(rig, &guest, 4, READ), Slow, "nothing is there");
    }
    on_both_hosts!(test);
}

/// Proves TDP-11.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_fast_path_never_gives_w_that_host_or_tracking_forbid() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.back(0, 8, MapOptions::READ_ONLY);
        rig.back(8, 8, MapOptions::WRITABLE);
        rig.slot(0, 0, 16, SlotFlags::empty()).unwrap();
        let mut guest = rig.guest(0);
        guest.read(3);
        guest.write(9);
        let vm = &rig.vm;
        vm.mmu()
            .change_tracking(vm.vcpus(), [&(), &()], Gfn(9), || Ok(true))
            .unwrap();
        for gfn in [3, 9] {
            assert_eq!(fast(rig, &guest, gfn, WRITE), Slow);
            assert!(!mapping(rig, root(&guest), gfn).unwrap().allows.write);
            assert_eq!(fast(rig, &guest, gfn, READ), Fixed);
            assert_eq!(fast(rig, &guest, gfn, EXEC), Fixed);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-11, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_fast_path_makes_no_large_mapping_writable_that_is_logged() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 512, Level::L2);
        let mut guest = rig.guest(0);
        guest.write(3);
        assert_eq!(rig.vm.mmu().mapped(Level::L2), 1);
        rig.slot(0, 0, 512, SlotFlags::LOG_DIRTY).unwrap();
        assert_eq!(fast(rig, &guest, 3, WRITE), Slow);
        assert_eq!(fast(rig, &guest, 3, READ), Fixed);
        assert!(!mapping(rig, root(&guest), 3).unwrap().allows.write);
    });
}

/// Proves TDP-11, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_fast_path_gives_back_what_access_tracking_put_aside() {
    fn test<const N: bool>(case: Case, rig: &Rig<N>) {
        if case.paging != Paging::EptPlain {
            return;
        }
        rig.back(0, 8, MapOptions::READ_ONLY);
        rig.back(8, 8, MapOptions::WRITABLE);
        rig.slot(0, 0, 16, SlotFlags::empty()).unwrap();
        let mut guest = rig.guest(0);
        for (gfn, access) in [(3, READ), (3, EXEC), (9, READ), (9, WRITE), (9, EXEC)] {
            guest.read(gfn);
            assert!(rig.vm.age(Rig::<N>::hva(0)..Rig::<N>::hva(16)));
            assert_eq!(mapping(rig, root(&guest), gfn), None, "put aside");
            assert_eq!(fast(rig, &guest, gfn, access), Fixed);
            let allows = mapping(rig, root(&guest), gfn).unwrap().allows;
            assert_eq!(allows, Access::new(true, access.write, true));
        }
        assert!(rig.vm.age(Rig::<N>::hva(0)..Rig::<N>::hva(16)));
        assert_eq!(fast(rig, &guest, 3, WRITE), Slow);
        assert_eq!(mapping(rig, root(&guest), 3), None, "nothing was done");
    }
    on_both_hosts!(test);
}
