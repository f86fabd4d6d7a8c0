//! Updates of memory slots against readers, activation and notifications.
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use waterbear_core::lock::RwLock;
use waterbear_core::lock_order::MMU;
use waterbear_core::memslot::{Change, Memslots, Region, Slot, SlotHooks, SpaceId};
use waterbear_hal::Gfn;
use waterbear_hal::sync::twin::Part;
use waterbear_mock::MockHost;

use crate::twins::{explore, explore_bounded, must_deadlock, must_fail};

const SPACE: SpaceId = SpaceId::NORMAL;

/// Hooks of a VM without page tables.
struct Nothing;

impl SlotHooks<MockHost> for Nothing {
    fn zap_slot(&self, _: &Slot<MockHost>) {}
    fn committed(&self, _: &Change<'_, MockHost>) {}
    fn mmio_generation_wrapped(&self, _: SpaceId) {}
}

/// A page table of one entry: whether the slot's page is mapped.
type PageTable = RwLock<MockHost, bool>;

/// Hooks of a VM with that page table.
struct Zap<'a>(&'a PageTable);

impl SlotHooks<MockHost> for Zap<'_> {
    fn zap_slot(&self, slot: &Slot<MockHost>) {
        assert!(slot.invalid);
        *self.0.write() = false;
    }
    fn committed(&self, _: &Change<'_, MockHost>) {}
    fn mmio_generation_wrapped(&self, _: SpaceId) {}
}

/// A slot of one page at `gfn`, or none with `npages` 0.
fn region(gfn: u64, npages: u64) -> Region {
    Region {
        space: 0,
        id: 0,
        flags: 0,
        guest_phys_addr: gfn << 12,
        memory_size: npages << 12,
        userspace_addr: 0,
    }
}

fn vm() -> (MockHost, Arc<Memslots<MockHost>>) {
    let host = MockHost::new();
    let slots = Memslots::new(&host, Gfn(64)).expect("memory");
    (host, Arc::new(slots))
}

fn finish(host: MockHost, slots: Arc<Memslots<MockHost>>) {
    drop(slots);
    host.assert_no_leaks();
}

/// What a reader that sees the flag relies on.
fn check_counts(slots: &Memslots<MockHost>) {
    if slots.track_active() {
        let read = slots.read();
        for slot in read.set(SPACE).iter() {
            assert!(
                slot.arch.track_count(slot.base).is_some(),
                "twin: counts are active and a slot has none"
            );
        }
    }
}

fn activation_meets(update: Region, exists: bool) {
    let (host, slots) = vm();
    if exists {
        slots.set_region(&Nothing, region(1, 1)).expect("create");
    }
    let activator = thread::spawn({
        let slots = Arc::clone(&slots);
        move || slots.activate_track().expect("memory")
    });
    let reader = thread::spawn({
        let slots = Arc::clone(&slots);
        move || check_counts(&slots)
    });
    slots.set_region(&Nothing, update).expect("legal");
    activator.join().expect("no panic");
    reader.join().expect("no panic");
    assert!(slots.track_active());
    check_counts(&slots);
    finish(host, slots);
}

/// Proves MS-1, MS-2, MS-5, MS-6.
#[test]
fn a_slot_that_is_made_during_activation_has_counts() {
    explore_bounded(3, || activation_meets(region(1, 1), false));
}

/// Proves MS-6.
#[test]
fn a_slot_that_is_made_during_activation_has_counts_twin() {
    must_fail(
        Part::SlotsArchLock,
        "twin: counts are active and a slot has none",
        || explore_bounded(3, || activation_meets(region(1, 1), false)),
    );
}

/// Proves MS-3, MS-5, MS-6.
#[test]
fn a_slot_that_moves_during_activation_has_counts() {
    explore_bounded(3, || activation_meets(region(3, 1), true));
}

/// Proves MS-6.
#[test]
fn a_slot_that_moves_during_activation_has_counts_twin() {
    must_fail(
        Part::SlotsArchLock,
        "twin: counts are active and a slot has none",
        || explore_bounded(3, || activation_meets(region(3, 1), true)),
    );
}

/// Maps the page if there is a valid slot, as a fault does.
fn fault(slots: &Memslots<MockHost>, table: &PageTable, gfn: u64) {
    let read = slots.read();
    match read.set(SPACE).by_gfn(Gfn(gfn)) {
        // MS-7: it retries, and this model looks at one try.
        Some(slot) if slot.invalid => {}
        Some(_) => *table.write() = true,
        None => {}
    }
}

fn faults_meet_a_delete() {
    let (host, slots) = vm();
    let table = Arc::new(RwLock::new(&host, &MMU, false).expect("memory"));
    slots.set_region(&Nothing, region(1, 1)).expect("create");
    let faults = [(); 2].map(|()| {
        let (slots, table) = (Arc::clone(&slots), Arc::clone(&table));
        thread::spawn(move || fault(&slots, &table, 1))
    });
    slots
        .set_region(&Zap(&table), region(0, 0))
        .expect("delete");
    assert!(!*table.read(), "twin: a mapping outlives its slot");
    for fault in faults {
        fault.join().expect("no panic");
    }
    assert!(!*table.read(), "twin: a mapping outlives its slot");
    drop(table);
    finish(host, slots);
}

/// Proves MS-3, MS-7.
#[test]
fn nobody_maps_a_page_of_a_slot_after_it_was_zapped() {
    explore_bounded(3, faults_meet_a_delete);
}

/// Proves MS-3.
#[test]
fn nobody_maps_a_page_of_a_slot_after_it_was_zapped_twin() {
    must_fail(
        Part::SlotsSynchronize,
        "twin: a mapping outlives its slot",
        || explore_bounded(3, faults_meet_a_delete),
    );
}

/// One thread notifies, so that at most one spins: the checker follows two that
/// spin for ever.
fn notifications_meet_an_update() {
    let (host, slots) = vm();
    let notifier = thread::spawn({
        let slots = Arc::clone(&slots);
        move || {
            let present = || slots.read().set(SPACE).by_gfn(Gfn(1)).is_some();
            for _ in 0..2 {
                slots.gate().begin();
                let began = present();
                let ended = present();
                slots.gate().end();
                assert_eq!(began, ended, "twin: a notification ends on another set");
            }
        }
    });
    slots.set_region(&Nothing, region(1, 1)).expect("create");
    notifier.join().expect("no panic");
    finish(host, slots);
}

/// Proves MS-10.
#[test]
fn a_notification_ends_on_the_set_that_it_began_on() {
    explore_bounded(3, notifications_meet_an_update);
}

/// Proves MS-10.
#[test]
fn a_notification_ends_on_the_set_that_it_began_on_twin() {
    must_fail(
        Part::PublishGate,
        "twin: a notification ends on another set",
        || explore_bounded(3, notifications_meet_an_update),
    );
}

fn notifications_end_while_an_update_waits() {
    let (host, slots) = vm();
    let notifications = [(); 2].map(|()| {
        slots.gate().begin();
        let slots = Arc::clone(&slots);
        move || {
            let present = slots.read().set(SPACE).by_gfn(Gfn(1)).is_some();
            slots.gate().end();
            assert!(!present, "twin: a notification ends on another set");
        }
    });
    let notifications = notifications.map(thread::spawn);
    // A wake-up that is lost is a deadlock, which the checker reports.
    slots.set_region(&Nothing, region(1, 1)).expect("create");
    for notification in notifications {
        notification.join().expect("no panic");
    }
    finish(host, slots);
}

/// Proves MS-10.
#[test]
fn the_last_of_two_notifications_wakes_an_update_that_waits() {
    explore_bounded(3, notifications_end_while_an_update_waits);
}

/// Proves MS-10.
#[test]
fn the_last_of_two_notifications_wakes_an_update_that_waits_twin() {
    must_deadlock(
        "memslot::the_last_of_two_notifications_wakes_an_update_that_waits_twin",
        Part::NotificationWake,
        || explore(notifications_end_while_an_update_waits),
    );
}

/// Stands for an MMIO entry that nobody has made.
const EMPTY: u32 = u32::MAX;

/// Proves MS-9, BUG-8.
#[test]
fn an_mmio_entry_from_before_a_slot_is_not_believed_after_it() {
    explore_bounded(3, || {
        let (host, slots) = vm();
        let entry = Arc::new(AtomicU32::new(EMPTY));
        let maker = thread::spawn({
            let (slots, entry) = (Arc::clone(&slots), Arc::clone(&entry));
            move || {
                let read = slots.read();
                let set = read.set(SPACE);
                // Not memory, so the entry says MMIO, if it may be cached.
                if let (None, Some(generation)) = (set.by_gfn(Gfn(1)), set.mmio_generation()) {
                    entry.store(generation, Ordering::Release);
                }
            }
        });
        let user = thread::spawn({
            let (slots, entry) = (Arc::clone(&slots), Arc::clone(&entry));
            move || {
                let read = slots.read();
                let set = read.set(SPACE);
                let cached = entry.load(Ordering::Acquire);
                if set.mmio_generation() == Some(cached) {
                    assert!(set.by_gfn(Gfn(1)).is_none(), "memory is taken for MMIO");
                }
            }
        });
        slots.set_region(&Nothing, region(1, 1)).expect("create");
        maker.join().expect("no panic");
        user.join().expect("no panic");
        finish(host, slots);
    });
}
