//! What random sequences have found, one test each.
use waterbear_core::memslot::SlotFlags;
use waterbear_core::tdp::DirtyTracking::WriteProtect;
use waterbear_core::tdp::walk::Yielding;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Paging, Reached, Rig};

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn pages_whose_word_of_the_log_spans_two_tables_are_all_protected() {
    let rig = Rig::<true>::new(Paging::Ept, WriteProtect);
    rig.back(500, 64, MapOptions::WRITABLE);
    rig.slot(0, 500, 64, SlotFlags::LOG_DIRTY).unwrap();
    let mut guest = rig.guest(0);
    // Pages 11 and 14 of the slot: the last of one table, and not the first
    // of the next.
    for _ in 0..2 {
        guest.write(511);
        guest.write(514);
        assert_eq!(rig.dirty_log(0, 64), [11, 14]);
    }
    drop(guest);
    rig.finish();
}

/// Proves TDP-8, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn no_large_mapping_brings_back_a_page_that_is_changing() {
    let rig = Rig::<true>::new(Paging::Npt, WriteProtect);
    rig.memory(0, 0, 512, Level::L2);
    let mut guest = rig.guest(0);
    let changing = Rig::<true>::hva(7)..Rig::<true>::hva(8);
    rig.vm.invalidate_begin(changing.clone(), Yielding::Allowed);
    // Its neighbour may be reached or not, but not by a mapping of both.
    for _ in 0..4 {
        let _ = guest.step(8, Access::READ).unwrap();
    }
    assert_eq!(rig.vm.mmu().mapped(Level::L2), 0);
    let new = rig.back(7, 1, MapOptions::WRITABLE);
    rig.vm.invalidate_end(changing);
    assert_eq!(guest.access(7, Access::READ), Ok(Reached::Page(new)));
    assert_eq!(Some(guest.read(8)), rig.backing(Gfn(8)));
    drop(guest);
    rig.finish();
}

/// Proves TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn no_page_is_pinned_because_a_log_stops() {
    let rig = Rig::<false>::new(Paging::Ept, WriteProtect);
    rig.back(0, 64, MapOptions::WRITABLE);
    rig.slot(0, 0, 64, SlotFlags::LOG_DIRTY).unwrap();
    let mut guest = rig.guest(0);
    guest.write(1);
    rig.slot(0, 0, 64, SlotFlags::empty()).unwrap();
    assert_eq!(rig.host.live().page_references, 1);
    drop(guest);
    rig.finish();
}
