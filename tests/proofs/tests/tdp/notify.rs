//! The host changes pages, against faults.
use std::ops::Range;
use std::sync::Arc;

use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::walk::Yielding::{Allowed, Forbidden};
use waterbear_hal::{Gfn, Hva, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Reached, Rig};

use crate::support::{Case, cases, end, mapping, on_each, root};

type Notified = Rig<true>;

fn hvas(gfns: Range<u64>) -> Range<Hva> {
    Notified::hva(gfns.start)..Notified::hva(gfns.end)
}

/// Runs a test on a rig that hooks can share.
fn shared(test: impl Fn(Case, &Arc<Notified>)) {
    for case in cases() {
        let rig = Arc::new(case.rig::<true>());
        test(case, &rig);
        rig.user.clear_hooks();
        end(Arc::into_inner(rig).unwrap());
    }
}

/// Runs `f` as another thread of the host would, in the middle of a fault.
fn elsewhere(f: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(f).join().unwrap();
    });
}

/// Proves TDP-8, TDP-6.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_changes_while_a_fault_looks_for_it_is_never_mapped() {
    shared(|_, rig| {
        rig.memory(0, 0, 1024, Level::L2);
        let mut guest = rig.guest(0);
        for gfn in [3, 600] {
            for whole in [false, true] {
                // Found by the fault, then changed from beginning to end.
                let inside = Arc::clone(rig);
                rig.user.on_next_resolve(move |_| {
                    elsewhere(|| {
                        let (at, pages) = if whole { (0, 1024) } else { (gfn, 1) };
                        inside.host_change(at, pages, || {
                            inside.back(at, pages, MapOptions::WRITABLE.up_to(Level::L2))
                        });
                    });
                });
                assert_eq!(guest.step(gfn, Access::WRITE), Ok(None));
                if let Some(root) = guest.mmu.root() {
                    assert_eq!(mapping(rig, root.pfn(), gfn), None, "a stale page");
                }
                assert_eq!(Some(guest.write(gfn)), rig.backing(Gfn(gfn)));
                rig.host_change(gfn, 1, || ());
            }
        }
    });
}

/// Proves TDP-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_fault_installs_nothing_while_its_page_is_being_changed() {
    shared(|_, rig| {
        rig.memory(0, 0, 64, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(3);
        rig.vm.invalidate_begin(hvas(2..5), Forbidden);
        assert_eq!(mapping(rig, root(&guest), 3), None);
        for gfn in 2..5 {
            for _ in 0..3 {
                assert_eq!(guest.step(gfn, Access::WRITE), Ok(None));
                assert_eq!(mapping(rig, root(&guest), gfn), None);
            }
            let prefault = rig.vm.prefault(&mut guest.mmu, Gfn(gfn).gpa());
            assert_eq!(prefault, Err(waterbear_core::Error::Again));
        }
        // Next to it faults go on.
        guest.write(1);
        guest.write(5);
        let page = rig.back(3, 1, MapOptions::WRITABLE);
        rig.vm.invalidate_end(hvas(2..5));
        assert_eq!(guest.write(3), page);
        assert_eq!(rig.host.live().page_references, 0);
    });
}

/// Proves TDP-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_change_that_begins_inside_a_fault_and_ends_after_it_holds_the_fault_off() {
    shared(|_, rig| {
        rig.memory(0, 0, 64, Level::L1);
        let mut guest = rig.guest(0);
        let inside = Arc::clone(rig);
        rig.user.on_next_resolve(move |_| {
            elsewhere(|| inside.vm.invalidate_begin(hvas(3..4), Allowed));
        });
        assert_eq!(guest.step(3, Access::WRITE), Ok(None));
        assert_eq!(guest.step(3, Access::WRITE), Ok(None));
        assert_eq!(mapping(rig, root(&guest), 3), None);
        // The other way round: begun before the fault, ended inside, with the
        // old page in the fault's hands.
        let page = rig.backing(Gfn(3)).unwrap();
        let inside = Arc::clone(rig);
        rig.user.on_next_resolve(move |_| {
            elsewhere(|| {
                inside.back(3, 1, MapOptions::WRITABLE);
                inside.vm.invalidate_end(hvas(3..4));
            });
        });
        assert_eq!(guest.step(3, Access::WRITE), Ok(None));
        assert_eq!(mapping(rig, root(&guest), 3), None);
        assert_ne!(guest.write(3), page);
    });
}

/// Proves TDP-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_is_looked_for_after_the_change_is_mapped_at_once() {
    shared(|_, rig| {
        rig.memory(0, 0, 64, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(1);
        let exits = guest.exits;
        rig.host_change(3, 1, || rig.back(3, 1, MapOptions::WRITABLE));
        assert_eq!(Some(guest.write(3)), rig.backing(Gfn(3)));
        assert_eq!(guest.exits, exits + 1);
    });
}

/// Proves TDP-8, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn changes_may_overlap_and_nest() {
    shared(|_, rig| {
        rig.memory(0, 0, 64, Level::L1);
        let mut guest = rig.guest(0);
        let blocked = |guest: &mut waterbear_proofs::Guest<'_, true>, gfn| {
            assert_eq!(guest.step(gfn, Access::READ), Ok(None));
            assert_eq!(guest.step(gfn, Access::READ), Ok(None));
            mapping(rig, root(guest), gfn).is_none()
        };
        guest.write(1);
        rig.vm.invalidate_begin(hvas(10..20), Allowed);
        rig.vm.invalidate_begin(hvas(15..30), Forbidden);
        rig.vm.invalidate_begin(hvas(17..18), Forbidden);
        for gfn in [10, 17, 29] {
            assert!(blocked(&mut guest, gfn), "{gfn}");
        }
        rig.vm.invalidate_end(hvas(15..30));
        for gfn in [10, 17, 19] {
            assert!(blocked(&mut guest, gfn), "{gfn}");
        }
        rig.vm.invalidate_end(hvas(10..20));
        assert!(blocked(&mut guest, 17));
        rig.vm.invalidate_end(hvas(17..18));
        for gfn in [10, 17, 29] {
            guest.write(gfn);
        }
        // A later change is not confused by those before it.
        rig.vm.invalidate_begin(hvas(40..41), Allowed);
        guest.write(11);
        assert!(blocked(&mut guest, 40));
        rig.vm.invalidate_end(hvas(40..41));
    });
}

/// Proves TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_change_outside_every_slot_is_nothing() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 16, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(16);
        let all = 16..32;
        for range in [0..16, 32..64, 20..20, 100..200] {
            rig.vm.invalidate_begin(hvas(range.clone()), Allowed);
            for gfn in all.clone() {
                guest.write(gfn);
            }
            assert!(!rig.vm.age(hvas(range.clone())));
            rig.vm.change_pages(hvas(range.clone()));
            rig.vm.invalidate_end(hvas(range));
        }
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 16);
        // All there is.
        let everything = Hva(0)..Hva(u64::MAX);
        rig.vm.invalidate_begin(everything.clone(), Allowed);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        rig.vm.invalidate_end(everything);
        guest.write(16);
    });
}

/// Proves TDP-14, TDP-6.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn memory_in_several_slots_and_address_spaces_goes_from_all_of_them() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        rig.slot_in(SpaceId::SMM, 7, 0, 16, SlotFlags::empty())
            .unwrap();
        rig.vm
            .set_region(waterbear_core::memslot::Region {
                space: 0,
                id: 1,
                flags: 0,
                guest_phys_addr: 0x1000 << 12,
                memory_size: 8 << 12,
                userspace_addr: Notified::hva(2).0,
            })
            .unwrap();
        let (mut normal, mut smm) = (rig.guest(0), rig.guest(1));
        smm.switch_space(SpaceId::SMM);
        for contention in [0, 1] {
            normal.write(3);
            normal.write(0x1001);
            smm.write(3);
            rig.host.contend_every(contention);
            // Bytes in the middle of the page are enough.
            let byte = Notified::hva(3).0 + 77;
            let range = Hva(byte)..Hva(byte + 1);
            rig.vm.invalidate_begin(range.clone(), Allowed);
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
            rig.user.unmap(Notified::hva(3), 1);
            rig.vm.invalidate_end(range);
            for result in [
                normal.access(3, Access::WRITE),
                normal.access(0x1001, Access::READ),
                smm.access(3, Access::READ),
            ] {
                assert_eq!(result, Err(waterbear_core::Error::Fault));
            }
            let page = rig.back(3, 1, MapOptions::WRITABLE);
            assert_eq!(normal.write(0x1001), page);
            assert_eq!(smm.access(3, Access::WRITE), Ok(Reached::Page(page)));
            rig.host.contend_every(0);
        }
    });
}

/// Proves TDP-14, TDP-6.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn another_page_put_in_place_of_one_is_what_the_guest_reaches() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        let old = guest.write(3);
        guest.write(4);
        let range = hvas(3..4);
        rig.vm.invalidate_begin(range.clone(), Allowed);
        let new = rig.back(3, 1, MapOptions::WRITABLE);
        rig.vm.change_pages(range.clone());
        rig.vm.invalidate_end(range);
        assert!(!rig.host.is_live(old));
        assert_eq!(guest.write(3), new);
        let exits = guest.exits;
        guest.write(4);
        assert_eq!(guest.exits, exits, "its neighbour stayed");
    });
}

/// Proves TDP-8.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn an_end_without_a_beginning_is_reported() {
    let rig = cases().remove(0).rig::<true>();
    let end_only = std::panic::AssertUnwindSafe(|| rig.vm.mmu().end_invalidation());
    assert!(std::panic::catch_unwind(end_only).is_err());
}
