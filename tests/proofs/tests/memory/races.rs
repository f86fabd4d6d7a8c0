//! Accesses while slots come and go.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use waterbear_core::MemoryError;
use waterbear_core::memslot::{Region, SlotFlags};
use waterbear_hal::{Gfn, Gpa, User};

use crate::{FRAMES, NORMAL, place, rig};

/// Asks for the end of slot 0.
const DELETE: Region = Region {
    space: 0,
    id: 0,
    flags: 0,
    guest_phys_addr: 0,
    memory_size: 0,
    userspace_addr: 0,
};

/// Proves MS-3.
#[test]
fn a_slot_is_gone_only_when_the_accesses_that_found_it_are_over() {
    let rig = rig::<true>(SlotFlags::empty());
    let gone = Arc::new(AtomicBool::new(false));
    let deleter = Arc::new(Mutex::new(None));
    let (vm, flag, keep) = (rig.vm.clone(), Arc::clone(&gone), Arc::clone(&deleter));
    rig.user.on_next_access(move || {
        let (deleting, done) = (vm.clone(), Arc::clone(&flag));
        *keep.lock().unwrap() = Some(thread::spawn(move || {
            deleting.set_region(DELETE).unwrap();
            done.store(true, Ordering::Release);
        }));
        // Until the slot is on its way out, as others see it.
        let watched = thread::spawn(move || {
            loop {
                let slots = vm.memslots().read();
                match slots.set(NORMAL).by_gfn(Gfn(1)) {
                    Some(slot) if !slot.invalid => {}
                    _ => break,
                }
                drop(slots);
                thread::yield_now();
            }
        });
        watched.join().unwrap();
        thread::sleep(Duration::from_millis(20));
        assert!(!flag.load(Ordering::Acquire), "the access is not over");
    });
    // The slot, and a part of the next one.
    let bytes = vec![3; (FRAMES * 4096) as usize + 1];
    rig.vm.write_guest(NORMAL, Gpa(0x1000), &bytes).unwrap();
    let deleter = deleter.lock().unwrap().take().unwrap();
    deleter.join().unwrap();
    let mut last = [0];
    let hva = place(0).checked_add_pages(FRAMES - 1).unwrap();
    rig.host.read(&rig.user, hva, &mut last).unwrap();
    assert_eq!(last, [3]);
    let now = rig.vm.read_guest(NORMAL, Gpa(0x1000), &mut last);
    assert_eq!(now, Err(MemoryError::Missing(Gpa(0x1000))));
    rig.finish();
}
