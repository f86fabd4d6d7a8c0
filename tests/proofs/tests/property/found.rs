//! What random sequences have found, one test each.
use waterbear_core::memslot::SlotFlags;
use waterbear_core::tdp::DirtyTracking::WriteProtect;
use waterbear_core::tdp::walk::Yielding;
use waterbear_hal::{Gfn};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Paging, Reached, Rig};

/// Proves TDP-13.
#[test]
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
