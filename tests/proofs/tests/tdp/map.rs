//! Faults install mappings.
use waterbear_core::memslot::SlotFlags;
use waterbear_core::tdp::DirtyTracking::{DirtyBit, WriteProtect};
use waterbear_hal::{Gfn, Level};
use waterbear_mock::hw::Access;
use waterbear_proofs::{Paging, Reached, Rig};

/// Proves TDP-2.
#[test]
fn a_fault_maps_the_page_that_the_process_has() {
    for paging in Paging::ALL {
        let rig = Rig::<true>::new(paging, WriteProtect);
        rig.memory(0, 0x100, 16, Level::L1);
        let mut guest = rig.guest(0);
        assert_eq!(Some(guest.read(0x103)), rig.backing(Gfn(0x103)));
        assert_eq!(Some(guest.write(0x104)), rig.backing(Gfn(0x104)));
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 2);
        drop(guest);
        rig.finish();
    }
}

/// Proves TDP-6.
#[test]
fn a_deleted_slot_is_gone_from_tables_and_tlb() {
    for paging in Paging::ALL {
        let rig = Rig::<true>::new(paging, WriteProtect);
        rig.memory(0, 0, 64, Level::L1);
        let mut guest = rig.guest(0);
        for gfn in 0..64 {
            guest.write(gfn);
        }
        rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        for gfn in 0..64 {
            assert_eq!(guest.access(gfn, Access::READ), Ok(Reached::Device));
        }
        drop(guest);
        rig.finish();
    }
}

/// Proves TDP-13.
#[test]
fn the_dirty_log_has_what_was_written() {
    for (paging, tracking) in [
        (Paging::Ept, DirtyBit),
        (Paging::Ept, WriteProtect),
        (Paging::EptPlain, WriteProtect),
        (Paging::Npt, DirtyBit),
        (Paging::Npt, WriteProtect),
    ] {
        let rig = Rig::<true>::new(paging, tracking);
        rig.memory(0, 0, 1024, Level::L2);
        let mut guest = rig.guest(0);
        guest.write(5);
        guest.read(600);
        assert_eq!(rig.vm.mmu().mapped(Level::L2), 2);
        rig.slot(0, 0, 1024, SlotFlags::LOG_DIRTY).unwrap();
        assert_eq!(rig.dirty_log(0, 1024), []);
        guest.write(7);
        guest.write(700);
        guest.read(9);
        assert_eq!(rig.dirty_log(0, 1024), [7, 700]);
        assert_eq!(rig.dirty_log(0, 1024), []);
        guest.write(7);
        assert_eq!(rig.dirty_log(0, 1024), [7]);
        rig.slot(0, 0, 1024, SlotFlags::empty()).unwrap();
        assert_eq!(rig.vm.mmu().mapped(Level::L2), 2);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        drop(guest);
        rig.finish();
    }
}
