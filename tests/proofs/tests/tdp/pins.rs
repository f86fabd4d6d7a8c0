//! The host without notifications: a page stays referenced as long as the
//! guest can reach it, and no longer.
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::walk::Yielding::{Allowed, Forbidden};
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::Rig;

use crate::support::{Watch, mapping, on_each, root};

/// Proves TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_is_referenced_from_its_fault_to_its_unmap() {
    on_each::<false>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        let page = guest.read(3);
        for _ in 0..3 {
            guest.write(3);
            guest.read(3);
            rig.vm.prefault(&mut guest.mmu, Gfn(3).gpa()).unwrap();
            assert_eq!(rig.host.references(page), 1);
        }
        // The process lets go of the page; the guest still reaches it.
        rig.user.unmap(Rig::<false>::hva(3), 1);
        assert!(rig.host.is_live(page));
        guest.write(3);
        rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
        assert_eq!(rig.host.references(page), 0);
        assert!(!rig.host.is_live(page));
        assert!(rig.host.is_dirty(page), "it was written");
    });
}

/// Proves TDP-14, TDP-6.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn no_reference_is_given_back_before_the_flush() {
    on_each::<false>(|_, rig| {
        // More pages than an operation collects before it flushes.
        let pages = if cfg!(miri) { 70 } else { 200 };
        rig.memory(0, 0, 512, Level::L1);
        let mut guest = rig.guest(0);
        for (contention, yielding, end) in [
            (0, Allowed, pages),
            (1, Allowed, pages),
            (1, Forbidden, pages),
            (0, Allowed, 512),
        ] {
            let frames: Vec<_> = (0..pages).map(|gfn| guest.write(gfn)).collect();
            let top = root(&guest);
            let walker = rig.walker;
            // Whenever a flush begins, every page that is no longer mapped and
            // not flushed yet is still referenced.
            let flushed = std::cell::RefCell::new(vec![false; pages as usize]);
            let hook = || {
                let mut flushed = flushed.borrow_mut();
                for (gfn, &pfn) in frames.iter().enumerate() {
                    let memory = crate::support::Look(&rig.host);
                    let there = crate::support::peek(&walker, &memory, top, gfn as u64).is_ok();
                    if there || !flushed[gfn] {
                        assert_eq!(rig.host.references(pfn), 1, "{gfn:#x} was released early");
                    }
                    flushed[gfn] |= !there;
                }
            };
            let watch = Watch::at_flush(rig, &hook);
            rig.host.contend_every(contention);
            rig.vm
                .mmu()
                .zap(&watch, &(), SpaceId::NORMAL, Gfn(0)..Gfn(end), yielding);
            rig.host.contend_every(0);
            assert_eq!(rig.host.live().page_references, 0);
            assert!(watch.count() > 0);
        }
    });
}

/// Proves TDP-5, TDP-14, TDP-3.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_that_changed_without_notice_is_replaced_by_way_of_nothing() {
    on_each::<false>(|_, rig| {
        rig.back(0, 16, MapOptions::READ_ONLY);
        rig.slot(0, 0, 16, SlotFlags::empty()).unwrap();
        let (mut guest, mut other) = (rig.guest(0), rig.guest(1));
        let old = guest.read(3);
        assert_eq!(other.read(3), old);
        // Copy on write: the first write breaks it.
        let user = rig.user.clone();
        rig.user.before_resolve(move |hva| {
            user.map(hva, 1, MapOptions::WRITABLE);
        });
        let (new, history) = rig.host.record(|| guest.write(3));
        rig.user.clear_hooks();
        assert_ne!(new, old);
        assert_eq!(rig.host.references(old), 0);
        assert_eq!(rig.host.references(new), 1);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 1);
        // No vCPU reaches the old page any more.
        assert_eq!(other.read(3), new);
        // A leaf never becomes a leaf with another frame.
        let top = root(&guest);
        let states: Vec<_> = history
            .moments()
            .map(|moment| crate::support::peek(&rig.walker, &moment, top, 3).ok())
            .map(|found| found.map(|t| t.pfn))
            .collect();
        let gone = states.iter().position(Option::is_none).expect("frozen");
        assert!(states[..gone].iter().all(|&pfn| pfn == Some(old)));
        let back = states.iter().position(|&pfn| pfn == Some(new)).unwrap();
        assert!(gone < back && states[gone..back].iter().all(Option::is_none));
        assert!(states[back..].iter().all(|&pfn| pfn == Some(new)));
    });
}

/// Proves TDP-14.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn faults_that_install_nothing_keep_no_reference() {
    on_each::<false>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.read(1);
        // Refused, because the range is being changed.
        let range = Rig::<false>::hva(3)..Rig::<false>::hva(4);
        rig.vm.invalidate_begin(range.clone(), Allowed);
        assert_eq!(guest.step(3, Access::WRITE), Ok(None));
        assert_eq!(rig.host.live().page_references, 1);
        rig.vm.invalidate_end(range);
        assert_eq!(guest.write(3), rig.backing(Gfn(3)).unwrap());
        // Upgraded: logging took W away, a fault under the lock gives it back.
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        guest.write(3);
        guest.write(1);
        assert_eq!(rig.host.live().page_references, 2);
        assert!(mapping(rig, root(&guest), 3).unwrap().allows.write);
    });
}

/// Proves TDP-14, TDP-9.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_end_of_a_vm_gives_every_page_back() {
    for case in crate::support::cases() {
        let rig = case.rig::<false>();
        rig.memory(0, 0, 300, Level::L1);
        rig.slot_in(SpaceId::SMM, 0, 0, 300, SlotFlags::empty())
            .unwrap();
        let (mut normal, mut smm) = (rig.guest(0), rig.guest(1));
        smm.switch_space(SpaceId::SMM);
        for gfn in (0..300).step_by(if cfg!(miri) { 30 } else { 1 }) {
            normal.write(gfn);
            smm.read(gfn);
        }
        assert!(rig.host.live().page_references >= 20);
        drop((normal, smm));
        rig.finish();
    }
}
