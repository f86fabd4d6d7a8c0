//! Outside users come and go.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use waterbear_core::Error;
use waterbear_core::lock::Mutex;
use waterbear_core::mem::{Shared, boxed};
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::page_track::{self, Tracker};
use waterbear_core::vm::{Registration, Vm};
use waterbear_hal::{Cpu, Gfn, Gpa, LockClass, LockKind};
use waterbear_mock::Mock;
use waterbear_mock::hw::Access;
use waterbear_proofs::Reached;

use crate::{NORMAL, Notes, Told, rig};

/// Proves PT-5, MS-5.
#[test]
fn registering_gives_counts_to_every_slot() {
    let rig = rig::<true>();
    let notes = Notes::default();
    assert!(!rig.vm.memslots().track_active());
    let registration = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    assert!(rig.vm.memslots().track_active());
    rig.slot(1, 0x100, 16, SlotFlags::empty()).unwrap();
    {
        let slots = rig.vm.memslots().read();
        assert!(slots.set(NORMAL).iter().all(|slot| slot.arch.tracks()));
    }
    drop(registration);
    rig.finish();
}

/// Proves PT-5.
#[test]
fn a_tracker_is_attached_to_a_vm_once() {
    let rig = rig::<true>();
    let notes = Notes::default();
    let tracker = notes.tracker(&rig.host);
    let registration = Registration::new(&rig.vm, &tracker).unwrap();
    let again = Registration::new(&rig.vm, &tracker);
    assert_eq!(again.err(), Some(Error::Exists));
    rig.vm.written(NORMAL, Gpa(0), &[1]);
    assert_eq!(notes.take().len(), 1);
    registration.unregister();
    rig.vm.written(NORMAL, Gpa(0), &[1]);
    assert_eq!(notes.take(), []);
    Registration::new(&rig.vm, &tracker).unwrap().unregister();
    drop(tracker);
    rig.finish();
}

/// Proves PT-5.
#[test]
fn nobody_registers_with_a_dead_vm_and_whoever_has_leaves_it() {
    let rig = rig::<true>();
    let notes = Notes::default();
    let early = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    let mut guest = rig.guest(0);
    guest.read(0);
    rig.vm.kill();
    assert_eq!(guest.access(1, Access::READ), Err(Error::Dead));
    let late = notes.tracker(&rig.host);
    let registered = Registration::new(&rig.vm, &late);
    assert_eq!(registered.err(), Some(Error::Dead));
    early.unregister();
    drop((guest, late));
    rig.finish();
}

/// Proves PT-5.
#[test]
fn a_registration_keeps_the_vm() {
    let rig = rig::<true>();
    let notes = Notes::default();
    let registration = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    let waterbear_proofs::Rig { vm, host, user, .. } = rig;
    drop(vm);
    let vm = registration.vm();
    vm.track_page(NORMAL, Gfn(3)).unwrap();
    vm.written(NORMAL, Gpa(0x3000), &[1]);
    assert_eq!(notes.take().len(), 1);
    drop(registration);
    drop(user);
    host.assert_no_leaks();
}

/// Proves PT-5.
#[test]
fn a_registration_that_fails_for_lack_of_memory_leaves_nothing_behind() {
    let rig = rig::<true>();
    rig.slot(1, 0x100, 16, SlotFlags::empty()).unwrap();
    let notes = Notes::default();
    let tracker = notes.tracker(&rig.host);
    let mut registration = None;
    let failed = rig.host.for_each_failing_alloc(|_| {
        let registered = Registration::new(&rig.vm, &tracker);
        if rig.host.injection_fired() {
            assert_eq!(registered.err(), Some(Error::NoMemory));
            rig.vm.written(NORMAL, Gpa(0), &[1]);
            assert_eq!(notes.take(), []);
        } else {
            registration = registered.ok();
        }
    });
    assert!(failed >= 6, "two lists and the counts of two slots");
    rig.vm.written(NORMAL, Gpa(0), &[1]);
    assert_eq!(notes.take().len(), 1);
    drop((registration, tracker));
    let made = rig.host.for_each_failing_alloc(|_| {
        let made = page_track::shared(&rig.host, notes.clone());
        assert_eq!(made.is_err(), rig.host.injection_fired());
    });
    assert!(made >= 2);
    rig.finish();
}

/// Proves PT-5.
#[test]
fn trackers_leave_in_any_order_and_need_no_memory_for_it() {
    let rig = rig::<true>();
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let notes: [Notes; 3] = Default::default();
        let mut registered = notes
            .each_ref()
            .map(|notes| Some(Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap()));
        for leaves in order {
            rig.host.fail_nth_alloc(1);
            drop(registered[leaves].take());
            assert!(!rig.host.injection_fired());
            rig.host.fail_nth_alloc(0);
            rig.vm.written(NORMAL, Gpa(1), &[1]);
            for (notes, attached) in notes.iter().zip(&registered) {
                assert_eq!(notes.take().len(), usize::from(attached.is_some()));
            }
        }
    }
    rig.finish();
}

/// A tracker whose callback takes its time.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<AtomicBool>,
    go_on: Arc<AtomicBool>,
    ended: Arc<AtomicU64>,
}

impl Slow {
    fn callback(&self) {
        self.begun.store(true, SeqCst);
        while !self.go_on.load(SeqCst) {
            thread::yield_now();
        }
        self.ended.fetch_add(1, SeqCst);
    }
}

impl Tracker for Slow {
    fn track_write(&self, _space: SpaceId, _gpa: Gpa, _bytes: &[u8]) {
        self.callback();
    }
    fn track_remove_region(&self, _space: SpaceId, _gfn: Gfn, _npages: u64) {
        self.callback();
    }
}

fn unregistering_waits<const NOTIFIER: bool>(call: impl Fn(&crate::Rig<NOTIFIER>) + Sync) {
    let rig = rig::<NOTIFIER>();
    let slow = Slow::default();
    let tracker = page_track::shared(&rig.host, slow.clone()).unwrap();
    let registration = Registration::new(&rig.vm, &tracker).unwrap();
    thread::scope(|threads| {
        let caller = threads.spawn(|| call(&rig));
        while !slow.begun.load(SeqCst) {
            assert!(!caller.is_finished(), "there was no callback");
            thread::yield_now();
        }
        threads.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            slow.go_on.store(true, SeqCst);
        });
        registration.unregister();
        assert_eq!(slow.ended.load(SeqCst), 1, "the callback still runs");
    });
    rig.vm.written(NORMAL, Gpa(0), &[1]);
    assert_eq!(slow.ended.load(SeqCst), 1, "a callback began");
    drop(tracker);
    rig.finish();
}

/// Proves PT-5.
#[test]
fn unregistering_waits_for_a_callback_that_runs() {
    unregistering_waits::<true>(|rig| rig.vm.written(NORMAL, Gpa(0), &[1]));
    unregistering_waits::<false>(|rig| rig.vm.written(NORMAL, Gpa(0), &[1]));
    unregistering_waits::<true>(|rig| rig.slot(0, 0, 0, SlotFlags::empty()).unwrap());
    unregistering_waits::<false>(|rig| rig.slot(0, 0, 0, SlotFlags::empty()).unwrap());
}

/// Proves PT-6.
#[test]
fn registering_waits_for_an_update_of_slots_that_may_be_a_move() {
    let rig = rig::<true>();
    let notes = Notes::default();
    let tracker = notes.tracker(&rig.host);
    let updated = AtomicBool::new(false);
    thread::scope(|threads| {
        let update = rig.vm.memslots().lock();
        threads.spawn(|| {
            let registration = Registration::new(&rig.vm, &tracker).unwrap();
            assert!(updated.load(SeqCst), "the update was not over");
            registration.unregister();
        });
        thread::sleep(Duration::from_millis(20));
        updated.store(true, SeqCst);
        drop(update);
    });
    drop(tracker);
    rig.finish();
}

/// The owner's lock, in its place in the lock order.
static OWNERS: LockClass = LockClass {
    name: "a tracker's own lock",
    rank: 55,
    kind: LockKind::Sleeping,
};

/// A tracker whose callbacks sleep, allocate, take a lock of their own, and
/// track and untrack pages.
struct Busy<const NOTIFIER: bool> {
    host: Mock<NOTIFIER>,
    vm: Shared<Vm<Mock<NOTIFIER>>, Mock<NOTIFIER>>,
    lock: Shared<Mutex<Mock<NOTIFIER>, u64>, Mock<NOTIFIER>>,
}

impl<const NOTIFIER: bool> Busy<NOTIFIER> {
    fn callback(&self) {
        let mut calls = self.lock.lock();
        *calls += 1;
        // Each of these panics where sleeping is not allowed.
        self.host.yield_now();
        drop(boxed(&self.host, [0_u64; 8]).unwrap());
        self.vm.track_page(NORMAL, Gfn(0x104)).unwrap();
        self.vm.untrack_page(NORMAL, Gfn(0x103)).unwrap();
        self.vm.track_page(NORMAL, Gfn(0x103)).unwrap();
        self.vm.untrack_page(NORMAL, Gfn(0x104)).unwrap();
    }
}

impl<const NOTIFIER: bool> Tracker for Busy<NOTIFIER> {
    fn track_write(&self, _space: SpaceId, _gpa: Gpa, _bytes: &[u8]) {
        self.callback();
    }
    fn track_remove_region(&self, _space: SpaceId, _gfn: Gfn, _npages: u64) {
        self.callback();
    }
}

fn callbacks_sleep<const NOTIFIER: bool>() {
    let rig = rig::<NOTIFIER>();
    rig.memory(1, 0x100, 16, waterbear_hal::Level::L1);
    let lock = Mutex::new(&rig.host, &OWNERS, 0).unwrap();
    let lock = Shared::new(&rig.host, lock).unwrap();
    let tracker = Busy {
        host: rig.host.clone(),
        vm: rig.vm.clone(),
        lock: lock.clone(),
    };
    let tracker = page_track::shared(&rig.host, tracker).unwrap();
    let registration = Registration::new(&rig.vm, &tracker).unwrap();
    {
        // The owner tracks pages under the lock that its callbacks take.
        let _calls = lock.lock();
        rig.vm.track_page(NORMAL, Gfn(0x103)).unwrap();
    }
    let mut guest = rig.guest(0);
    assert_eq!(guest.access(0x103, Access::WRITE), Ok(Reached::Emulated));
    rig.vm.written(NORMAL, Gpa(0x10_3000), &[1]);
    rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
    assert_eq!(*lock.lock(), 2, "both callbacks ran");
    assert_eq!(guest.access(0x103, Access::WRITE), Ok(Reached::Emulated));
    guest.write(0x104);
    drop(guest);
    drop((registration, tracker, lock));
    rig.finish();
}

/// Proves PT-7.
#[test]
fn a_callback_may_sleep_take_its_owners_locks_and_track_pages() {
    callbacks_sleep::<true>();
    callbacks_sleep::<false>();
}

/// Proves PT-5, PT-7.
#[test]
fn a_vcpu_tells_trackers_while_others_come_and_go() {
    let rig = rig::<true>();
    let rounds = if cfg!(miri) { 3 } else { 100 };
    let notes = Notes::default();
    let stays = Registration::new(&rig.vm, &notes.tracker(&rig.host)).unwrap();
    rig.vm.track_page(NORMAL, Gfn(3)).unwrap();
    thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..rounds {
                let passing = Notes::default();
                let tracker = passing.tracker(&rig.host);
                let registration = Registration::new(&rig.vm, &tracker).unwrap();
                registration.unregister();
                let told = passing.take().len();
                thread::yield_now();
                assert_eq!(passing.take().len(), 0, "told after {told} times");
            }
        });
        threads.spawn(|| {
            let mut guest = rig.guest(0);
            for byte in 0..rounds {
                assert_eq!(guest.access(3, Access::WRITE), Ok(Reached::Emulated));
                rig.vm.written(NORMAL, Gpa(0x3000), &[byte]);
            }
        });
    });
    let told = |byte| Told::Write(NORMAL, Gpa(0x3000), vec![byte]);
    assert_eq!(notes.take(), (0..rounds).map(told).collect::<Vec<_>>());
    drop(stays);
    rig.finish();
}
