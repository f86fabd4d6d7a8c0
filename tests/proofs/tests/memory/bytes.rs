//! What is read is what was written.
use waterbear_core::Error;
use waterbear_core::memslot::SlotFlags;
use waterbear_hal::Gpa;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_mock::hw::Access;
use waterbear_proofs::random::Random;

use crate::{END, FRAMES, NORMAL, contents, place, rig};

/// Accesses are shorter than one of these.
const LONGEST: &[u64] = &[8, 64, 5000, 3 * FRAMES * PAGE_SIZE];

#[test]
fn bytes_go_to_where_the_process_has_them_across_pages_and_slots() {
    let rig = rig::<true>(SlotFlags::empty());
    let mut model = vec![0; (END - PAGE_SIZE) as usize];
    let mut random = Random::new(7);
    for _ in 0..2000 {
        let longest = random.pick(LONGEST);
        let from = random.below(model.len() as u64);
        let len = random.below(longest.min(model.len() as u64 - from) + 1);
        let bytes: Vec<u8> = (0..len).map(|_| random.number() as u8).collect();
        let gpa = Gpa(PAGE_SIZE + from);
        rig.vm.write_guest(NORMAL, gpa, &bytes).unwrap();
        let range = from as usize..(from + len) as usize;
        model[range].copy_from_slice(&bytes);
        let from = random.below(model.len() as u64);
        let len = random.below(longest.min(model.len() as u64 - from) + 1);
        let mut buf = vec![0xee; len as usize];
        rig.vm
            .read_guest(NORMAL, Gpa(PAGE_SIZE + from), &mut buf)
            .unwrap();
        assert_eq!(buf, model[from as usize..(from + len) as usize]);
    }
    assert!(contents(&rig) == model, "the process sees something else");
    rig.finish();
}

#[test]
fn the_guest_and_the_host_use_the_same_bytes() {
    let rig = rig::<true>(SlotFlags::empty());
    let mut guest = rig.guest(0);
    rig.vm
        .write_guest(NORMAL, Gpa(0x2ffe), &[1, 2, 3, 4])
        .unwrap();
    let (first, second) = (guest.read(2), guest.write(3));
    let mut seen = [0; 2];
    rig.host.data_read_bytes(first, 0xffe, &mut seen);
    assert_eq!(seen, [1, 2]);
    rig.host.data_write_bytes(second, 0, &[5]);
    let mut seen = [0; 4];
    rig.vm.read_guest(NORMAL, Gpa(0x2ffe), &mut seen).unwrap();
    assert_eq!(seen, [1, 2, 5, 4]);
    // Copy-on-write: the process gets another page when it writes.
    let before = rig.user.lookup(crate::place(0)).unwrap();
    guest.access(1, Access::READ).unwrap();
    let (user, vm) = (rig.user.clone(), rig.vm.clone());
    rig.user.before_resolve(move |hva| {
        let page = waterbear_hal::Hva(hva.0 & !(PAGE_SIZE - 1));
        let (user, vm) = (user.clone(), vm.clone());
        // As the host's own code would, elsewhere.
        let announced = std::thread::spawn(move || {
            let range = page..waterbear_hal::Hva(page.0 + PAGE_SIZE);
            let yielding = waterbear_core::tdp::walk::Yielding::Allowed;
            vm.invalidate_begin(range.clone(), yielding);
            user.map(page, 1, waterbear_mock::MapOptions::WRITABLE);
            vm.invalidate_end(range);
        });
        announced.join().unwrap();
    });
    rig.vm.write_guest(NORMAL, Gpa(0x1000), &[9]).unwrap();
    rig.user.clear_hooks();
    let after = guest.read(1);
    assert_ne!(before, after);
    let mut seen = [0];
    rig.host.data_read_bytes(after, 0, &mut seen);
    assert_eq!(seen, [9]);
    drop(guest);
    rig.finish();
}

#[test]
fn an_access_allocates_nothing() {
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    let before = rig.host.allocations();
    rig.vm
        .write_guest(NORMAL, Gpa(0x4fff), &[1; 0x1002])
        .unwrap();
    let mut buf = [0; 0x1002];
    rig.vm.read_guest(NORMAL, Gpa(0x4fff), &mut buf).unwrap();
    assert_eq!(rig.host.allocations(), before);
    rig.finish();
}

#[test]
fn the_last_byte_of_the_address_space_can_be_memory() {
    let rig = rig::<true>(SlotFlags::empty());
    let end = rig.vm.mmu().format().end();
    let gpa = Gpa(end.gpa().0 - PAGE_SIZE);
    let region = waterbear_core::memslot::Region {
        space: 0,
        id: 9,
        flags: 0,
        guest_phys_addr: gpa.0,
        memory_size: PAGE_SIZE,
        userspace_addr: crate::place(1).0,
    };
    rig.vm.set_region(region).unwrap();
    rig.vm
        .write_guest(NORMAL, Gpa(end.gpa().0 - 2), &[1, 2])
        .unwrap();
    let mut seen = [0; 2];
    rig.vm.read_guest(NORMAL, Gpa(0x5ffe), &mut seen).unwrap();
    assert_eq!(seen, [1, 2]);
    let beyond = rig.vm.read_guest(NORMAL, Gpa(end.gpa().0 - 1), &mut seen);
    assert_eq!(beyond, Err(waterbear_core::MemoryError::Missing(end.gpa())));
    rig.finish();
}

#[test]
fn two_pieces_are_written_or_none() {
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    let pieces = |second| [(Gpa(0x1fff), &[1][..]), (Gpa(second), &[2, 3])];
    let write = |second| rig.vm.write_guest_both(NORMAL, pieces(second));
    // The last page of the third slot, and its process.
    let page = place(2).checked_add_pages(FRAMES - 1).unwrap();
    let last = END - PAGE_SIZE;
    let before = contents(&rig);
    rig.user.protect(page, 1, false);
    assert_eq!(write(last), Err(Error::Fault));
    assert_eq!(write(u64::MAX), Err(Error::Invalid));
    assert_eq!(contents(&rig), before);
    assert_eq!(rig.dirty_log(0, FRAMES), []);
    rig.user.protect(page, 1, true);
    assert_eq!(write(last), Ok([true, true]));
    assert_eq!(write(END), Ok([true, false]));
    let mut after = before;
    after[0xfff] = 1;
    let at = after.len() - PAGE_SIZE as usize;
    after[at..at + 2].copy_from_slice(&[2, 3]);
    assert_eq!(contents(&rig), after);
    assert_eq!(rig.dirty_log(0, FRAMES), [0]);
    assert_eq!(rig.dirty_log(2, FRAMES), [FRAMES - 1]);
    rig.finish();
}
