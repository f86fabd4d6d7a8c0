//! Roots: shared, invalidated, replaced.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::RootRole;
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_core::tdp::walk::Yielding::Allowed;
use waterbear_core::vm::Outcome;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Reached, Rig};

use crate::support::{Case, Watch, cases, end, mapping, on_both_hosts, root};

/// Proves TDP-9, BUG-10.
#[test]
fn vcpus_share_a_root_exactly_when_their_whole_role_is_equal() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        // The same frame is other memory in each address space.
        rig.memory(0, 0, 16, Level::L1);
        rig.back(0x100, 16, MapOptions::WRITABLE);
        rig.vm
            .set_region(waterbear_core::memslot::Region {
                space: 1,
                id: 0,
                flags: 0,
                guest_phys_addr: 0,
                memory_size: 16 << 12,
                userspace_addr: Rig::<N>::hva(0x100).0,
            })
            .unwrap();
        let (mut one, mut two, mut three) = (rig.guest(0), rig.guest(1), rig.guest(2));
        three.switch_space(SpaceId::SMM);
        assert_eq!(one.write(3), two.write(3));
        assert_eq!(Some(three.write(3)), rig.backing(Gfn(0x103)));
        assert_eq!(root(&one), root(&two));
        assert_ne!(root(&one), root(&three));
        for space in SpaceId::ALL {
            let held = rig.vm.mmu().root(RootRole { space }).unwrap();
            assert_eq!(held.role(), RootRole { space });
        }
        // There and back again: each time the address space's own page.
        for _ in 0..2 {
            three.switch_space(SpaceId::NORMAL);
            assert_eq!(Some(three.write(3)), rig.backing(Gfn(3)));
            assert_eq!(root(&three), root(&one));
            three.switch_space(SpaceId::SMM);
            assert_eq!(Some(three.write(3)), rig.backing(Gfn(0x103)));
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-9, BUG-5.
#[test]
fn an_invalidation_empties_the_roots_of_every_address_space_for_good() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        for contention in [0, 1] {
            rig.memory(0, 0, 16, Level::L1);
            rig.slot_in(SpaceId::SMM, 0, 0, 16, SlotFlags::empty())
                .unwrap();
            let (mut normal, mut smm) = (rig.guest(2 * contention), rig.guest(2 * contention + 1));
            smm.switch_space(SpaceId::SMM);
            for gfn in 0..16 {
                normal.write(gfn);
                smm.write(gfn);
            }
            let old = [&normal, &smm].map(|guest| guest.mmu.root().unwrap().clone());
            assert!(old.iter().all(|root| !root.is_invalid()));
            rig.host.contend_every(contention.into());
            let watch = Watch::new(rig);
            rig.vm.mmu().invalidate_roots(&watch, [&(), &()]);
            rig.host.contend_every(0);
            assert_eq!(watch.reloads.get(), 1);
            assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
            assert_eq!(rig.host.live().page_references, 0);
            for root in &old {
                assert!(root.is_invalid());
                for gfn in 0..16 {
                    assert_eq!(mapping(rig, root.pfn(), gfn), None);
                }
                assert!(watch.flushed(0) && watch.flushed(15));
            }
            for guest in [&mut normal, &mut smm] {
                // Its old root takes no new mapping, in whatever way.
                let before = guest.mmu.root().unwrap().clone();
                let outcome = rig
                    .vm
                    .handle_fault(&mut guest.mmu, Gfn(3).gpa(), Wanted::default());
                assert_eq!(outcome, Ok(Outcome::Resume));
                let outcome =
                    rig.vm
                        .handle_fault(&mut guest.mmu, Gfn(0x999).gpa(), Wanted::default());
                assert_eq!(outcome, Ok(Outcome::Mmio));
                assert_eq!(mapping(rig, before.pfn(), 3), None);
                // It runs again on another one.
                assert_eq!(Some(guest.write(3)), rig.backing(Gfn(3)));
                assert_ne!(root(guest), before.pfn());
                assert!(!guest.mmu.root().unwrap().is_invalid());
            }
            drop((normal, smm, old));
            rig.slot_in(SpaceId::SMM, 0, 0, 0, SlotFlags::empty())
                .unwrap();
            rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-9.
#[test]
fn an_invalid_root_is_never_found_again_and_dies_with_its_last_user() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let role = RootRole {
            space: SpaceId::NORMAL,
        };
        let mmu = rig.vm.mmu();
        let mut kept = Vec::new();
        for _ in 0..6 {
            let root = mmu.root(role).unwrap();
            let again = mmu.root(role).unwrap();
            assert_eq!(root.pfn(), again.pfn());
            assert!(!root.is_invalid());
            assert!(
                kept.iter()
                    .all(|old: &waterbear_core::tdp::RootRef<_>| old.pfn() != root.pfn())
            );
            mmu.invalidate_roots(rig.vm.vcpus(), [&(), &()]);
            kept.push(root);
        }
        assert_eq!(rig.host.live().tables, 6);
        drop(kept);
        assert_eq!(rig.host.live().tables, 0);
    }
    on_both_hosts!(test);
}

/// Proves TDP-8, TDP-9, BUG-11.
#[test]
fn a_root_that_becomes_invalid_inside_a_fault_gets_no_mapping() {
    fn test<const N: bool>(case: Case) {
        let rig = Arc::new(case.rig::<N>());
        rig.memory(0, 0, 16, Level::L1);
        let mut guest = rig.guest(0);
        guest.write(1);
        let old = guest.mmu.root().unwrap().clone();
        let inside = Arc::clone(&rig);
        rig.user.on_next_resolve(move |_| {
            inside
                .vm
                .mmu()
                .invalidate_roots(inside.vm.vcpus(), [&(), &()]);
        });
        assert_eq!(guest.step(3, Access::WRITE), Ok(None));
        assert!(old.is_invalid());
        assert_eq!(mapping(&rig, old.pfn(), 3), None);
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        assert_eq!(rig.host.live().page_references, 0);
        assert_eq!(Some(guest.write(3)), rig.backing(Gfn(3)));
        assert_ne!(root(&guest), old.pfn());
        drop((guest, old));
        rig.user.clear_hooks();
        end(Arc::into_inner(rig).unwrap());
    }
    for case in cases() {
        test::<true>(case);
        test::<false>(case);
    }
}

/// Proves TDP-9, BUG-4.
#[test]
fn a_notification_reaches_roots_that_are_invalid_and_not_yet_empty() {
    for case in cases() {
        let rig = case.rig::<true>();
        let pages = if cfg!(miri) { 64 } else { 512 };
        rig.memory(0, 0, pages, Level::L1);
        let last = pages - 1;
        let mut guest = rig.guest(0);
        for gfn in 0..pages {
            guest.write(gfn);
        }
        let old = root(&guest);
        rig.host.contend_every(1);
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !begun.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let range = Rig::<true>::hva(last)..Rig::<true>::hva(pages);
                rig.vm.invalidate_begin(range.clone(), Allowed);
                // Wherever the other thread is: the page is gone everywhere.
                assert_eq!(mapping(&rig, old, last), None);
                done.store(true, Ordering::Release);
                rig.vm.invalidate_end(range);
            });
            // The first flush comes when the first page has gone, under the
            // lock; the notification waits for it from then on.
            let hook = || {
                begun.store(true, Ordering::Release);
                if !done.load(Ordering::Acquire) {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
            };
            let watch = Watch::at_flush(&rig, &hook);
            rig.vm.mmu().invalidate_roots(&watch, [&(), &()]);
        });
        assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
        drop(guest);
        end(rig);
    }
}

/// Proves TDP-9, TDP-6.
#[test]
fn a_vcpu_that_held_the_old_root_reaches_nothing_through_it() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 16, Level::L1);
        let (mut one, mut two) = (rig.guest(0), rig.guest(1));
        let page = one.write(3);
        two.write(3);
        rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]);
        // One goes on at once and maps the page in a new root; the host then
        // takes it away. Two comes from the old root, with a full TLB.
        assert_eq!(one.write(3), page);
        rig.host_change(3, 1, || rig.back(3, 1, MapOptions::WRITABLE));
        assert_eq!(Some(two.write(3)), rig.backing(Gfn(3)));
        assert_eq!(two.access(99, Access::READ), Ok(Reached::Device));
    }
    on_both_hosts!(test);
}
