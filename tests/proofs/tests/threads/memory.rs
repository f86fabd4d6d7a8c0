//! The guest's memory: three parts, each with a service that changes it; all
//! of them smaller under Miri.
use waterbear_core::Error;
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_hal::{Level, Pfn};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::random::Random;
use waterbear_proofs::{Reached, Rig};

use crate::Outcome;

/// Slot 0 of the normal space, which is logged now and then. Its pages stay:
/// what the guest wrote to a frame is what was written to its page.
pub const LOGGED: u64 = 480;
pub const LOGGED_PAGES: u64 = if cfg!(miri) { 100 } else { 1100 };
/// The frames of it that are touched: around the edges of tables, of words of
/// the log, and of the large page.
pub const HOT: [u64; 10] = if cfg!(miri) {
    [480, 481, 511, 512, 514, 543, 544, 545, 546, 579]
} else {
    [480, 481, 511, 512, 514, 543, 544, 1023, 1024, 1579]
};

/// Slots that come and go: a small one and a large one, in either space.
pub const PASSING: [(u32, u64, u64); 2] =
    [(1, 4096, 8), (2, 4608, if cfg!(miri) { 40 } else { 520 })];
/// Where a passing slot moves to.
pub const MOVED: u64 = 0x4000;

/// Slot 3 of both spaces, whose pages the host replaces.
pub const CHANGING: u64 = 0x8000;
pub const CHANGING_PAGES: u64 = if cfg!(miri) { 70 } else { 1024 };

/// Huge pages where the host can.
const LARGE: MapOptions = MapOptions::WRITABLE.up_to(Level::L2);

/// The backing of everything, and the slots that stay.
pub fn prepare<const N: bool>(rig: &Rig<N>) {
    rig.back(LOGGED, LOGGED_PAGES, LARGE);
    rig.back(CHANGING, CHANGING_PAGES, LARGE);
    for (_, first, pages) in PASSING {
        rig.back(first, pages, LARGE);
    }
    let plain = SlotFlags::empty();
    rig.slot(0, LOGGED, LOGGED_PAGES, plain).unwrap();
    for space in SpaceId::ALL {
        rig.slot_in(space, 3, CHANGING, CHANGING_PAGES, plain)
            .unwrap();
    }
}

/// Deletes the slots that stay, and checks that nothing is mapped any more.
pub fn remove<const N: bool>(rig: &Rig<N>) {
    let gone = SlotFlags::empty();
    rig.slot(0, LOGGED, 0, gone).unwrap();
    for space in SpaceId::ALL {
        rig.slot_in(space, 3, CHANGING, 0, gone).unwrap();
    }
    for level in Level::LEAVES {
        assert_eq!(rig.vm.mmu().mapped(level), 0, "mapped at {level:?}");
    }
    assert_eq!(rig.host.live().page_references, 0);
}

/// A frame of any part.
pub fn any_frame(random: &mut Random) -> u64 {
    match random.below(10) {
        0..=4 => random.pick(&HOT),
        5..=6 => {
            let (_, first, pages) = random.pick(&PASSING);
            let first = random.pick(&[first, first, MOVED]);
            first + random.pick(&[0, 1, 5, pages - 1])
        }
        _ => CHANGING + random.pick(&[0, 1, 63, 511, 512, 700, 1023]) % CHANGING_PAGES,
    }
}

/// Panics unless the access may come to that, at some moment.
pub fn judge(space: SpaceId, gfn: u64, access: Access, got: Outcome) {
    let logged = (LOGGED..LOGGED + LOGGED_PAGES).contains(&gfn);
    let changing = (CHANGING..CHANGING + CHANGING_PAGES).contains(&gfn);
    let fits = match got {
        Ok(Reached::Page(Pfn(_))) => !logged || space == SpaceId::NORMAL,
        Ok(Reached::Device) if logged => space == SpaceId::SMM,
        Ok(Reached::Device) => !changing,
        Ok(Reached::Emulated) => logged && access.write,
        Err(Error::Fault) => changing,
        Err(_) => false,
    };
    assert!(fits, "{access:?} of frame {gfn:#x} in {space:?}: {got:?}");
}
