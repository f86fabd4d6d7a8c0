//! Who gets to know of a write: the dirty log and the trackers.
use std::sync::{Arc, Mutex};

use waterbear_core::mem::Shared;
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::page_track::{self, Tracker};
use waterbear_core::tdp::DirtyTracking::{self, DirtyBit, WriteProtect};
use waterbear_core::vm::{Registration, Vm};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Gpa, Level, Width};
use waterbear_mock::{MapOptions, MockHost};
use waterbear_proofs::{Paging, Rig};

use crate::{FRAMES, NORMAL, place, rig};

/// Every kind of paging with every way to find writes that it has.
const KINDS: &[(Paging, DirtyTracking)] = &[
    (Paging::Ept, WriteProtect),
    (Paging::Ept, DirtyBit),
    (Paging::EptPlain, WriteProtect),
    (Paging::Npt, WriteProtect),
    (Paging::Npt, DirtyBit),
];

/// Proves TDP-13.
#[test]
fn every_page_that_was_written_is_in_the_log_and_no_other() {
    for (paging, dirty) in KINDS.iter().copied() {
        let rig = Rig::<true>::new(paging, dirty);
        rig.back(0, 16, MapOptions::WRITABLE);
        rig.slot(0, 0, 8, SlotFlags::LOG_DIRTY).unwrap();
        rig.slot(1, 8, 8, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        guest.read(1);
        guest.write(2);
        let vm = &rig.vm;
        vm.write_guest(NORMAL, Gpa(0x3ff8), &[1; 8]).unwrap();
        vm.read_guest(NORMAL, Gpa(0x5000), &mut [0; 16]).unwrap();
        assert_eq!(rig.dirty_log(0, 8), [2, 3]);
        // Across pages and slots.
        vm.write_guest(NORMAL, Gpa(0x4fff), &[1; 2]).unwrap();
        assert_eq!(rig.dirty_log(0, 8), [4, 5]);
        let bytes = vec![1; 2 * PAGE_SIZE as usize];
        vm.write_guest(NORMAL, Gpa(0x7fff), &bytes).unwrap();
        assert_eq!(rig.dirty_log(0, 8), [7]);
        assert_eq!(rig.dirty_log(1, 8), [0, 1]);
        // Only an exchange that happens writes.
        let exchange = |old, new| {
            vm.compare_exchange_guest(NORMAL, Gpa(0x6000), Width::Word, old, new)
                .unwrap()
        };
        assert_eq!(exchange(1, 2), 0);
        assert_eq!(rig.dirty_log(0, 8), []);
        assert_eq!(exchange(0, 2), 0);
        assert_eq!(rig.dirty_log(0, 8), [6]);
        drop(guest);
        rig.finish();
    }
}

/// Proves TDP-13.
#[test]
fn a_log_that_is_read_before_the_write_gets_it_afterwards() {
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    let vm = rig.vm.clone();
    let read = move || {
        let mut log = [0];
        vm.read_dirty_log(NORMAL, 0, &mut log, true).unwrap();
        log[0]
    };
    let hook = read.clone();
    rig.user.before_resolve(move |_| {
        // The access holds its read section; user space has a thread of its own.
        let hook = hook.clone();
        let log = std::thread::spawn(hook).join().unwrap();
        assert_eq!(log, 0, "nothing is written yet");
    });
    rig.vm.write_guest(NORMAL, Gpa(0x1fff), &[1]).unwrap();
    assert_eq!(read(), 1);
    let exchange = |old| {
        rig.vm
            .compare_exchange_guest(NORMAL, Gpa(0x2000), Width::Byte, old, 1)
            .unwrap()
    };
    assert_eq!(exchange(0), 0);
    assert_eq!(read(), 2);
    rig.user.clear_hooks();
    drop(read);
    rig.finish();
}

/// Proves TDP-13.
#[test]
fn a_write_that_did_not_see_the_log_is_made_before_the_log_begins() {
    let rig = rig::<true>(SlotFlags::empty());
    let (vm, host, user) = (rig.vm.clone(), rig.host.clone(), rig.user.clone());
    let (told, begun) = std::sync::mpsc::channel();
    let thread = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&thread);
    rig.user.on_next_access(move || {
        let starts = std::thread::spawn(move || {
            let region = waterbear_core::memslot::Region {
                space: 0,
                id: 0,
                flags: SlotFlags::LOG_DIRTY.bits(),
                guest_phys_addr: PAGE_SIZE,
                memory_size: FRAMES * PAGE_SIZE,
                userspace_addr: place(0).0,
            };
            vm.set_region(region).unwrap();
            // What user space copies to begin with.
            let mut byte = [0];
            waterbear_hal::User::read(&host, &user, place(0), &mut byte).unwrap();
            told.send(byte[0]).unwrap();
        });
        *keep.lock().unwrap() = Some(starts);
        std::thread::sleep(std::time::Duration::from_millis(20));
    });
    rig.vm.write_guest(NORMAL, Gpa(0x1000), &[7]).unwrap();
    let copied = begun.recv().unwrap();
    thread.lock().unwrap().take().unwrap().join().unwrap();
    let logged = rig.dirty_log(0, FRAMES) == [0];
    assert!(copied == 7 || logged, "the write is lost");
    rig.finish();
}

/// What a tracker is told, and what it finds.
struct Notes {
    vm: Shared<Vm<MockHost>, MockHost>,
    host: MockHost,
    told: Arc<Mutex<Vec<Write>>>,
}

type Write = (Gpa, Vec<u8>);

impl Tracker for Notes {
    fn track_write(&self, space: SpaceId, gpa: Gpa, bytes: &[u8]) {
        assert_eq!(self.host.held_locks(), Vec::<&str>::new());
        assert!(!self.host.in_rcu_section());
        // Opens a read section, and they do not nest.
        let mut found = vec![0; bytes.len()];
        self.vm.read_guest(space, gpa, &mut found).unwrap();
        assert_eq!(found, bytes, "the write comes first");
        self.told.lock().unwrap().push((gpa, bytes.to_vec()));
    }
    fn track_remove_region(&self, _space: SpaceId, _gfn: Gfn, _npages: u64) {}
}

/// Proves PT-6, PT-7.
#[test]
fn trackers_are_told_of_the_bytes_that_were_written_and_of_no_others() {
    let rig = rig::<true>(SlotFlags::empty());
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Notes {
        vm: rig.vm.clone(),
        host: rig.host.clone(),
        told: Arc::clone(&told),
    };
    let tracker = page_track::shared(&rig.host, notes).unwrap();
    let registration = Registration::new(&rig.vm, &tracker).unwrap();
    rig.vm.track_page(NORMAL, Gfn(2)).unwrap();
    let take = || std::mem::take(&mut *told.lock().unwrap());
    let vm = &rig.vm;
    // Across two slots: one write, told once.
    let bytes: Vec<u8> = (0..=255).collect();
    vm.write_guest(NORMAL, Gpa(0x4ff0), &bytes).unwrap();
    assert_eq!(take(), [(Gpa(0x4ff0), bytes)]);
    // The bytes that were exchanged, if any were.
    let exchange = |old, new| {
        vm.compare_exchange_guest(NORMAL, Gpa(0x2004), Width::Dword, old, new)
            .unwrap()
    };
    assert_eq!(exchange(1, 2), 0);
    assert_eq!(take(), []);
    assert_eq!(exchange(0, 0x1_0403_0201), 0);
    assert_eq!(take(), [(Gpa(0x2004), vec![1, 2, 3, 4])]);
    // Nothing happened.
    vm.read_guest(NORMAL, Gpa(0x2000), &mut [0; 8]).unwrap();
    vm.write_guest(NORMAL, Gpa(0x2000), &[]).unwrap();
    vm.write_guest(NORMAL, Gpa(0xfff), &[1; 2]).unwrap_err();
    rig.user.unmap(place(1), 1);
    vm.write_guest(NORMAL, Gpa(0x5000), &[1; 2]).unwrap_err();
    assert_eq!(take(), []);
    // The part in the first slot happened.
    vm.write_guest(NORMAL, Gpa(0x4ffe), &[5; 4]).unwrap_err();
    assert_eq!(take(), [(Gpa(0x4ffe), vec![5; 2])]);
    registration.unregister();
    drop(tracker);
    rig.finish();
}

#[test]
fn a_tracked_page_stays_write_protected_for_the_guest() {
    let rig = Rig::<true>::new(Paging::Ept, WriteProtect);
    rig.memory(0, 0, 8, Level::L1);
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    rig.vm.write_guest(NORMAL, Gpa(0x3000), &[1]).unwrap();
    let mut guest = rig.guest(0);
    let reached = guest.access(3, waterbear_mock::hw::Access::WRITE);
    assert_eq!(reached, Ok(waterbear_proofs::Reached::Emulated));
    drop(guest);
    rig.finish();
}
