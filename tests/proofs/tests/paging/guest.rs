//! Page tables in the memory of a VM.
use std::sync::{Arc, Mutex};

use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::page_track::{self, Tracker};
use waterbear_core::paging::{Access, EntryMemory, Failure, Kind, Mode, translate};
use waterbear_core::tdp::DirtyTracking::WriteProtect;
use waterbear_core::vm::{GuestTables, Registration};
use waterbear_core::{Error, MemoryError};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Gpa, Width};
use waterbear_mock::{MapOptions, MockHost};
use waterbear_proofs::{Paging, Rig};

use crate::tables::{A, D, P, Shape, Tables, W};

const NORMAL: SpaceId = SpaceId::NORMAL;
/// Where [`Tables::chain`] puts the tables, in frames.
const TABLES: u64 = 0x100;

const WRITE: Access = Access {
    kind: Kind::Write,
    mode: Mode::Supervisor,
};

/// A VM with four levels of tables in a slot with these flags.
fn rig(flags: SlotFlags) -> (Rig, Tables) {
    let rig = Rig::<true>::new(Paging::Ept, WriteProtect);
    rig.back(TABLES, 8, MapOptions::WRITABLE);
    let tables = Tables::chain(Shape::Four, &[P | W; 4]);
    for (gpa, entry) in &tables.entries {
        let hva = waterbear_hal::Hva(Rig::<true>::hva(0).0 + gpa.0);
        waterbear_hal::User::write(&rig.host, &rig.user, hva, &entry.to_le_bytes()).unwrap();
    }
    rig.slot(0, TABLES, 8, flags).unwrap();
    (rig, tables)
}

fn mem(rig: &Rig) -> GuestTables<'_, MockHost> {
    GuestTables::new(&rig.vm, NORMAL)
}

#[test]
fn a_walk_reads_and_marks_the_guests_memory_and_the_log_has_it() {
    let (rig, tables) = rig(SlotFlags::LOG_DIRTY);
    let shape = Shape::Four;
    let found = translate(&shape.registers(), &mut mem(&rig), shape.linear(), WRITE).unwrap();
    assert_eq!(found.gpa, Gpa(shape.page() | shape.linear() & 0xfff));
    let last = tables.entries.len() - 1;
    for (place, &(gpa, entry)) in tables.entries.iter().enumerate() {
        let marks = if place == last { A | D } else { A };
        assert_eq!(mem(&rig).read(gpa, Width::Qword), Ok(entry | marks));
    }
    assert_eq!(rig.dirty_log(0, 8), [1, 2, 3, 4]);
    // Nothing is left to mark.
    translate(&shape.registers(), &mut mem(&rig), shape.linear(), WRITE).unwrap();
    assert_eq!(rig.dirty_log(0, 8), []);
    rig.finish();
}

/// Proves TDP-15.
#[test]
fn tables_in_read_only_and_in_tracked_memory_let_the_walk_go_on() {
    /// Writes down which bytes were written.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<Write>>>);
    type Write = (Gpa, Vec<u8>);
    impl Tracker for Notes {
        fn track_write(&self, _space: SpaceId, gpa: Gpa, bytes: &[u8]) {
            self.0.lock().unwrap().push((gpa, bytes.to_vec()));
        }
        fn track_remove_region(&self, _space: SpaceId, _gfn: Gfn, _npages: u64) {}
    }

    let (rig, tables) = self::rig(SlotFlags::READONLY);
    let shape = Shape::Four;
    translate(&shape.registers(), &mut mem(&rig), shape.linear(), WRITE).unwrap();
    for &(gpa, entry) in &tables.entries {
        assert_eq!(mem(&rig).read(gpa, Width::Qword), Ok(entry));
    }
    rig.finish();

    let (rig, tables) = self::rig(SlotFlags::empty());
    let notes = Notes::default();
    let tracker = page_track::shared(&rig.host, notes.clone()).unwrap();
    let registration = Registration::new(&rig.vm, &tracker).unwrap();
    for frame in TABLES..TABLES + 8 {
        rig.vm.track_page(NORMAL, Gfn(frame)).unwrap();
    }
    translate(&shape.registers(), &mut mem(&rig), shape.linear(), WRITE).unwrap();
    let expected = tables.entries.iter().map(|&(gpa, entry)| {
        let leaf = gpa == shape.entry(1);
        (
            gpa,
            (entry | A | if leaf { D } else { 0 })
                .to_le_bytes()
                .to_vec(),
        )
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(*notes.0.lock().unwrap(), expected);
    registration.unregister();
    drop(tracker);
    rig.finish();
}

#[test]
fn tables_outside_memory_and_in_memory_that_fails_are_told_apart() {
    let (rig, _) = rig(SlotFlags::empty());
    let shape = Shape::Four;
    let go = |rig: &Rig| translate(&shape.registers(), &mut mem(rig), shape.linear(), WRITE);
    let level_1 = shape.entry(1);
    rig.user.unmap(Rig::<true>::hva(level_1.gfn().0), 1);
    assert_eq!(go(&rig), Err(Failure::Host(Error::Fault)));
    rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
    let root = shape.entry(4);
    assert_eq!(go(&rig), Err(Failure::NoMemory(root)));
    rig.slot(0, TABLES, 1, SlotFlags::empty()).unwrap();
    let missing = mem(&rig).compare_exchange(root, Width::Qword, 0, 1);
    assert_eq!(missing, Err(MemoryError::Missing(root)));
    assert!(root.0 >= (TABLES + 1) * PAGE_SIZE);
    rig.finish();
}
