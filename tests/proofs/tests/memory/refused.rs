//! What is refused, and what has happened by then.
use waterbear_core::memslot::{Change, Slot, SlotFlags, SlotHooks, SpaceId};
use waterbear_core::{Error, MemoryError};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gpa, ResolveError, Width};
use waterbear_mock::MockHost;
use waterbear_proofs::Rig;

use crate::{END, FRAMES, NORMAL, contents, place, rig, slot};

/// Does every kind of access of 16 bytes at `gpa`, or of 8 where one access is
/// no more, and wants the same of each.
#[track_caller]
fn all_kinds(rig: &Rig, gpa: u64, expected: Result<(), MemoryError>) {
    let mut buf = [0xee; 16];
    assert_eq!(rig.vm.read_guest(NORMAL, Gpa(gpa), &mut buf), expected);
    if expected.is_err() {
        assert_eq!(buf, [0xee; 16], "nothing was read");
    }
    writes(rig, gpa, expected);
}

/// The same of writes only.
#[track_caller]
fn writes(rig: &Rig, gpa: u64, expected: Result<(), MemoryError>) {
    let vm = &rig.vm;
    assert_eq!(vm.write_guest(NORMAL, Gpa(gpa), &[0xdd; 16]), expected);
    if gpa.is_multiple_of(8) {
        let seen = vm.compare_exchange_guest(NORMAL, Gpa(gpa), Width::Qword, 0, 1);
        assert_eq!(seen.map(|_| ()), expected);
    }
}

#[test]
fn where_there_is_no_memory_nothing_happens_and_the_caller_is_told_where() {
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    let missing = |gpa| Err(MemoryError::Missing(Gpa(gpa)));
    for gpa in [0, 0x800, END, END + 0x123, u64::MAX - 15] {
        all_kinds(&rig, gpa, missing(gpa));
    }
    // Into memory and out of it.
    all_kinds(&rig, PAGE_SIZE - 1, missing(PAGE_SIZE - 1));
    all_kinds(&rig, END - 1, missing(END));
    // A hole in the middle, two slots on.
    slot_gone(&rig, 1);
    let hole = (1 + FRAMES) * PAGE_SIZE;
    all_kinds(&rig, hole - 1, missing(hole));
    let mut all = vec![0; (END - PAGE_SIZE) as usize];
    let across = rig.vm.read_guest(NORMAL, Gpa(PAGE_SIZE), &mut all);
    assert_eq!(across, missing(hole));
    assert_eq!(
        rig.vm.write_guest(NORMAL, Gpa(PAGE_SIZE), &all),
        missing(hole)
    );
    // The other address space has none at all.
    let smm = rig.vm.read_guest(SpaceId::SMM, Gpa(PAGE_SIZE), &mut [0]);
    assert_eq!(smm, missing(PAGE_SIZE));
    assert_eq!(contents(&rig), vec![0; (END - PAGE_SIZE) as usize]);
    assert_eq!(rig.dirty_log(0, FRAMES), []);
    rig.finish();
}

fn slot_gone(rig: &Rig, id: u32) {
    rig.slot(id, 0, 0, SlotFlags::empty()).unwrap();
}

#[test]
fn a_range_that_wraps_is_refused_and_no_bytes_are_nothing() {
    let rig = rig::<true>(SlotFlags::empty());
    let invalid = Err(MemoryError::Host(Error::Invalid));
    all_kinds(&rig, u64::MAX - 14, invalid);
    all_kinds(&rig, u64::MAX, invalid);
    for gpa in [0, PAGE_SIZE, u64::MAX] {
        assert_eq!(rig.vm.read_guest(NORMAL, Gpa(gpa), &mut []), Ok(()));
        assert_eq!(rig.vm.write_guest(NORMAL, Gpa(gpa), &[]), Ok(()));
    }
    rig.finish();
}

#[test]
fn a_read_only_slot_is_read_and_no_write_reaches_it() {
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    slot_gone(&rig, 1);
    slot(&rig, 1, SlotFlags::READONLY);
    let start = (1 + FRAMES) * PAGE_SIZE;
    let refused = |gpa| Err(MemoryError::ReadOnly(Gpa(gpa)));
    writes(&rig, start, refused(start));
    writes(&rig, start + 8, refused(start + 8));
    writes(&rig, start - 1, refused(start));
    assert_eq!(contents(&rig), vec![0; (END - PAGE_SIZE) as usize]);
    assert_eq!(rig.dirty_log(0, FRAMES), []);
    let mut all = vec![1; (END - PAGE_SIZE) as usize];
    let across = rig.vm.read_guest(NORMAL, Gpa(PAGE_SIZE), &mut all);
    assert_eq!(across, Ok(()));
    assert_eq!(all, vec![0; (END - PAGE_SIZE) as usize]);
    rig.finish();
}

#[test]
fn what_the_process_lacks_is_a_fault_and_the_log_has_what_may_have_changed() {
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    let hva = |page: u64| place(0).checked_add_pages(page).unwrap();
    let host = |error| Err(MemoryError::Host(error));
    rig.user.protect(hva(1), 1, false);
    rig.user.poison(hva(2), 1);
    rig.user.unmap(hva(3), 1);
    let mut buf = [0; 8];
    let mut read = |gpa| rig.vm.read_guest(NORMAL, Gpa(gpa), &mut buf);
    assert_eq!(read(0x2000), Ok(()));
    assert_eq!(read(0x3000), host(Error::Poisoned));
    assert_eq!(read(0x4000), host(Error::Fault));
    let write = |gpa, len| rig.vm.write_guest(NORMAL, Gpa(gpa), &vec![1; len]);
    assert_eq!(write(0x2000, 8), host(Error::Fault));
    assert_eq!(write(0x3ff8, 8), host(Error::Poisoned));
    assert_eq!(write(0x4000, 1), host(Error::Fault));
    for gpa in [0x2000, 0x4000] {
        let vm = &rig.vm;
        let seen = vm.compare_exchange_guest(NORMAL, Gpa(gpa), Width::Word, 7, 8);
        assert_eq!(seen, Err(MemoryError::Host(Error::Fault)));
    }
    rig.dirty_log(0, FRAMES);
    // The first page is written, the second is not.
    assert_eq!(write(0x1ffe, 4), host(Error::Fault));
    rig.user.protect(hva(1), 1, true);
    let mut seen = [0; 4];
    rig.vm.read_guest(NORMAL, Gpa(0x1ffe), &mut seen).unwrap();
    assert_eq!(seen, [1, 1, 0, 0]);
    assert!(rig.dirty_log(0, FRAMES).contains(&0));
    rig.user.fail_next_resolve(ResolveError::NoMemory);
    assert_eq!(write(0x1000, 1), host(Error::NoMemory));
    assert_eq!(write(0x1000, 1), Ok(()));
    rig.finish();
}

/// Proves MS-7.
#[test]
fn a_slot_on_its_way_out_says_again() {
    /// Tries while the slot is INVALID.
    struct Tries<'a>(&'a Rig);
    impl SlotHooks<MockHost> for Tries<'_> {
        fn zap_slot(&self, _slot: &Slot<MockHost>) {
            let again = Err(MemoryError::Host(Error::Again));
            all_kinds(self.0, PAGE_SIZE, again);
            all_kinds(self.0, (1 + FRAMES) * PAGE_SIZE - 1, again);
            all_kinds(self.0, (1 + FRAMES) * PAGE_SIZE, Ok(()));
        }
        fn committed(&self, _change: &Change<'_, MockHost>) {}
        fn mmio_generation_wrapped(&self, _space: SpaceId) {}
    }
    let rig = rig::<true>(SlotFlags::empty());
    let region = waterbear_core::memslot::Region {
        space: 0,
        id: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 0,
        userspace_addr: 0,
    };
    let slots = rig.vm.memslots();
    slots.set_region(&Tries(&rig), region).unwrap();
    all_kinds(&rig, PAGE_SIZE, Err(MemoryError::Missing(Gpa(PAGE_SIZE))));
    rig.finish();
}
