//! Faults that are served in guest mode: with interrupts off, and never waiting.
use waterbear_core::memslot::SlotFlags;
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_hal::{Gfn, IrqOff, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Guest, Rig};

use crate::support::{Case, mapping, on_both_hosts, on_each, root};

const READ: Wanted = Wanted {
    write: false,
    exec: false,
    guest_walk: false,
    absent: true,
};
const WRITE: Wanted = Wanted {
    write: true,
    ..READ
};

/// One fault with interrupts off. The mock panics at whatever would wait.
fn quick<const N: bool>(rig: &Rig<N>, guest: &Guest<'_, N>, gfn: u64, access: Wanted) -> bool {
    let _off = IrqOff::new(&rig.host);
    let held = rig.host.held_locks();
    let done = rig.vm.quick_fault(&guest.mmu, Gfn(gfn).gpa(), access);
    assert_eq!(rig.host.held_locks(), held);
    done
}

/// Proves TDP-2, TDP-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_is_there_is_mapped_where_the_tables_are() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 1024, Level::L1);
        let mut guest = rig.guest(0);
        assert!(!quick(rig, &guest, 3, READ), "there is no root");
        guest.read(1);
        assert_eq!(quick(rig, &guest, 3, READ), N);
        assert_eq!(quick(rig, &guest, 4, WRITE), N);
        assert!(!quick(rig, &guest, 600, READ), "there is no table");
        assert!(!quick(rig, &guest, 5000, READ), "there is no memory");
        if N {
            assert!(mapping(rig, root(&guest), 4).unwrap().allows.write);
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 3);
            assert_eq!(Some(guest.read(3)), rig.backing(Gfn(3)));
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_is_changing_is_not_mapped_in_guest_mode() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.read(1);
        rig.host_change(3, 1, || {
            assert!(!quick(rig, &guest, 3, READ));
            assert!(quick(rig, &guest, 4, READ), "another one");
            assert_eq!(mapping(rig, root(&guest), 3), None);
        });
        assert!(quick(rig, &guest, 3, READ));
    });
}

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn what_is_written_from_guest_mode_is_in_the_log() {
    on_each::<true>(|_, rig| {
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        guest.read(1);
        assert!(quick(rig, &guest, 3, READ));
        assert!(quick(rig, &guest, 4, WRITE));
        guest.access(4, Access::WRITE).unwrap();
        assert_eq!(rig.dirty_log(0, 16), [4]);
    });
}

/// Proves TDP-11, PT-4.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn guest_mode_gives_no_w_that_slot_or_host_forbid() {
    on_each::<true>(|_, rig| {
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.back(16, 16, MapOptions::READ_ONLY);
        rig.slot(0, 0, 16, SlotFlags::READONLY).unwrap();
        rig.slot(1, 16, 16, SlotFlags::empty()).unwrap();
        let mut guest = rig.guest(0);
        guest.read(1);
        for gfn in [3, 18] {
            assert!(!quick(rig, &guest, gfn, WRITE));
            assert!(quick(rig, &guest, gfn, READ));
            assert!(!mapping(rig, root(&guest), gfn).unwrap().allows.write);
        }
    });
}
