//! The dirty log.
use waterbear_core::Error;
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::tdp::DirtyTracking::{DirtyBit, WriteProtect};
use waterbear_core::tdp::walk::Yielding::Allowed;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_mock::hw::Access;
use waterbear_proofs::{Paging, Rig};

use crate::support::{Case, Watch, mapping, on_both_hosts, on_each, root};

/// The log without clearing it.
fn look<const N: bool>(rig: &Rig<N>, id: u32, pages: u64) -> Vec<u64> {
    let mut words = vec![0; pages.div_ceil(64) as usize];
    rig.vm
        .read_dirty_log(SpaceId::NORMAL, id, &mut words, false)
        .unwrap();
    (0..pages)
        .filter(|page| words[(page / 64) as usize] >> (page % 64) & 1 != 0)
        .collect()
}

/// Proves TDP-13, TDP-12.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_dirty_log_has_what_was_written_and_nothing_else() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        for contention in [0, 1] {
            rig.memory(0, 0, 1024, Level::L2);
            rig.host.contend_every(contention);
            let mut guest = rig.guest(contention as u32);
            guest.write(5);
            guest.read(600);
            rig.slot(0, 0, 1024, SlotFlags::LOG_DIRTY).unwrap();
            assert_eq!(rig.dirty_log(0, 1024), [], "what came before is not in it");
            guest.write(7);
            guest.write(700);
            guest.read(9);
            guest.access(10, Access::EXEC).unwrap();
            assert_eq!(rig.dirty_log(0, 1024), [7, 700]);
            assert_eq!(rig.dirty_log(0, 1024), []);
            guest.write(7);
            guest.read(700);
            assert_eq!(rig.dirty_log(0, 1024), [7]);
            rig.slot(0, 0, 1024, SlotFlags::empty()).unwrap();
            if N {
                assert_eq!(rig.vm.mmu().mapped(Level::L2), 2);
                assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
            }
            rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
            rig.host.contend_every(0);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_slot_that_begins_anywhere_logs_every_page_again_after_every_look() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        // Words of the log lie across the edges of tables: no base is a
        // multiple of 64.
        for (id, base, pages) in [(0, 0x1f3, 300), (1, 0x3ff, 2), (2, 3 * 512 - 63, 64)] {
            rig.memory(id, base, pages, Level::L1);
            rig.slot(id, base, pages, SlotFlags::LOG_DIRTY).unwrap();
            let mut guest = rig.guest(id);
            let sets: [Vec<u64>; 4] = [
                (0..pages).collect(),
                (0..pages).filter(|page| (base + page) % 512 != 0).collect(),
                (0..pages).filter(|page| (base + page) % 3 == 0).collect(),
                vec![0, pages - 1],
            ];
            for set in sets {
                for round in 0..2 {
                    for &page in &set {
                        guest.write(base + page);
                    }
                    let log = rig.dirty_log(id, pages);
                    assert_eq!(log, set, "slot {id}, round {round}");
                }
            }
            assert_eq!(rig.dirty_log(id, pages), []);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-13, TDP-10, BUG-6.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_write_just_before_a_mapping_goes_is_in_the_log() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 64, Level::L1);
        rig.slot(0, 0, 64, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        let write = |guest: &mut waterbear_proofs::Guest<'_, N>, gfn| {
            // So that the write finds W, and hardware alone marks it.
            guest.read(gfn);
            guest.write(gfn);
        };
        write(&mut guest, 3);
        rig.host_change(3, 1, || rig.back(3, 1, MapOptions::WRITABLE));
        assert_eq!(rig.dirty_log(0, 64), [3], "a notification");
        write(&mut guest, 4);
        write(&mut guest, 5);
        {
            let slots = rig.vm.memslots().read();
            let logs = SpaceId::ALL.map(|space| slots.set(space));
            rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), logs);
        }
        assert_eq!(rig.dirty_log(0, 64), [4, 5], "an invalidation of roots");
        write(&mut guest, 6);
        let slots = rig.vm.memslots().read();
        let slot = slots.set(SpaceId::NORMAL).by_id(0).unwrap();
        let vm = &rig.vm;
        vm.mmu().zap(
            vm.vcpus(),
            &**slot,
            SpaceId::NORMAL,
            Gfn(0)..Gfn(512),
            Allowed,
        );
        drop(slots);
        assert_eq!(rig.dirty_log(0, 64), [6], "a zap of the whole table");
    }
    on_both_hosts!(test);
}

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_look_that_does_not_clear_leaves_the_log_to_the_second_call() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        let (base, pages) = (0x1e1, 200);
        rig.memory(0, base, pages, Level::L1);
        rig.slot(0, base, pages, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        let set = [0, 1, 63, 64, 100, 130, 199];
        for page in set {
            guest.write(base + page);
        }
        assert_eq!(look(rig, 0, pages), set);
        assert_eq!(look(rig, 0, pages), set);
        let clear = |first, npages, mask: &[u64]| {
            rig.vm
                .clear_dirty_log(SpaceId::NORMAL, 0, first, npages, mask)
        };
        // Bits of the mask that were not set, and one that was.
        assert_eq!(clear(0, 64, &[0b110]), Ok(()));
        assert_eq!(look(rig, 0, pages), [0, 63, 64, 100, 130, 199]);
        // Only what was cleared reports its next write.
        let exits = guest.exits;
        guest.write(base);
        guest.write(base + 100);
        if rig.vm.mmu().format().has_accessed_dirty() {
            assert!(guest.exits <= exits + 1, "a flush at most");
        }
        guest.write(base + 1);
        assert_eq!(look(rig, 0, pages), set);
        // The rest, up to the slot's end, which is not a multiple of 64.
        assert_eq!(clear(64, 136, &[u64::MAX; 3]), Ok(()));
        assert_eq!(look(rig, 0, pages), [0, 1, 63]);
        for page in [64, 199] {
            guest.write(base + page);
        }
        assert_eq!(look(rig, 0, pages), [0, 1, 63, 64, 199]);
        assert_eq!(rig.dirty_log(0, pages), [0, 1, 63, 64, 199]);
    }
    on_both_hosts!(test);
}

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_range_to_clear_that_makes_no_sense_changes_nothing() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 200, Level::L1);
        rig.memory(1, 0x1000, 16, Level::L1);
        rig.slot(0, 0, 200, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        guest.write(3);
        guest.write(199);
        let ones = [u64::MAX; 8];
        let clear = |id, first, npages, mask: &[u64]| {
            rig.vm
                .clear_dirty_log(SpaceId::NORMAL, id, first, npages, mask)
        };
        for (first, npages, words) in [
            (1, 64, 8),
            (0, 63, 8),
            (0, 201, 8),
            (192, 64, 8),
            (256, 0, 8),
            (0, 200, 3),
            (u64::MAX - 63, 64, 8),
            (64, u64::MAX - 63, 8),
        ] {
            let result = clear(0, first, npages, &ones[..words]);
            assert_eq!(result, Err(Error::Invalid), "{first} {npages} {words}");
        }
        assert_eq!(clear(1, 0, 16, &ones), Err(Error::NotFound));
        assert_eq!(clear(9, 0, 16, &ones), Err(Error::NotFound));
        assert_eq!(clear(0, 0, 0, &[]), Ok(()));
        let mut short = [0; 3];
        let read = rig.vm.read_dirty_log(SpaceId::NORMAL, 0, &mut short, true);
        assert_eq!(read, Err(Error::Invalid));
        let read = rig.vm.read_dirty_log(SpaceId::SMM, 0, &mut short, true);
        assert_eq!(read, Err(Error::NotFound));
        assert_eq!(look(rig, 0, 200), [3, 199]);
    }
    on_both_hosts!(test);
}

/// Proves TDP-13, BUG-7.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn collecting_the_log_touches_no_entry_that_is_not_present() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 128, Level::L1);
        rig.slot(0, 0, 128, SlotFlags::LOG_DIRTY).unwrap();
        let mut guest = rig.guest(0);
        for gfn in [3, 64, 127] {
            guest.write(gfn);
        }
        // The bits stay in the log, the mappings go; one MMIO entry comes.
        rig.host_change(0, 128, || ());
        guest.read(70);
        let root = guest.mmu.root().unwrap().clone();
        let mmu = rig.vm.mmu();
        let mut cache = waterbear_core::tdp::TableCache::new();
        cache.top_up(&rig.host).unwrap();
        let mmio = mmu.format().mmio(1).unwrap();
        mmu.install_mmio(rig.vm.vcpus(), &root, &mut cache, Gfn(64), mmio);
        let (log, history) = rig.host.record(|| rig.dirty_log(0, 128));
        assert_eq!(log, [3, 64, 127]);
        assert_eq!(history.writes().count(), 0);
        let watch = Watch::new(rig);
        let ((), history) = rig.host.record(|| {
            let mut words = [(Gfn(0), !0), (Gfn(64), !(1 << 6))].into_iter();
            mmu.clean_words(&watch, &(), SpaceId::NORMAL, || words.next());
            mmu.start_logging(&watch, &(), SpaceId::NORMAL, Gfn(0)..Gfn(64));
        });
        assert_eq!(history.writes().count(), 0);
        assert_eq!(watch.count(), 0);
    }
    on_both_hosts!(test);
}

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_root_that_is_made_while_the_log_is_collected_is_protected_too() {
    for dirty in [WriteProtect, DirtyBit] {
        let case = Case {
            paging: Paging::Ept,
            root: Level::L4,
            dirty,
        };
        let rig = case.rig::<true>();
        rig.memory(0, 0, 64, Level::L1);
        rig.slot(0, 0, 64, SlotFlags::LOG_DIRTY).unwrap();
        rig.host.contend_every(1);
        let mut guest = rig.guest(0);
        std::thread::scope(|scope| {
            let guest = &mut guest;
            let mut start = Some(|| guest.write(3));
            let mut writer = None;
            let mut taken = false;
            // No vCPU has run when collecting begins. In its first section
            // one starts; it gets the lock when the section ends.
            let words = || {
                if let Some(start) = start.take() {
                    writer = Some(scope.spawn(start));
                }
                let is_done = writer.as_ref().is_some_and(|writer| writer.is_finished());
                match (is_done, taken) {
                    (false, _) => Some((Gfn(0), 0)),
                    (true, false) => {
                        taken = true;
                        Some((Gfn(0), 1 << 3))
                    }
                    (true, true) => None,
                }
            };
            let vm = &rig.vm;
            vm.mmu()
                .clean_words(vm.vcpus(), &(), SpaceId::NORMAL, words);
        });
        rig.host.contend_every(0);
        let found = mapping(&rig, root(&guest), 3).expect("it was written");
        assert_eq!(found.allows.write, dirty == DirtyBit, "{found:?}");
        assert!(dirty == WriteProtect || !found.dirty);
        drop(guest);
        crate::support::end(rig);
    }
}

/// Proves TDP-13, TDP-10.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn the_tlb_of_a_running_vcpu_hides_no_write_after_the_log_was_read() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 64, Level::L1);
        rig.slot(0, 0, 64, SlotFlags::LOG_DIRTY).unwrap();
        let (mut one, mut two) = (rig.guest(0), rig.guest(1));
        for _ in 0..3 {
            one.write(3);
            two.write(3);
            assert_eq!(rig.dirty_log(0, 64), [3]);
            // With a full TLB in each.
            two.write(3);
            assert_eq!(rig.dirty_log(0, 64), [3]);
            one.write(3);
            assert_eq!(look(rig, 0, 64), [3]);
            let clear = rig.vm.clear_dirty_log(SpaceId::NORMAL, 0, 0, 64, &[1 << 3]);
            assert_eq!(clear, Ok(()));
            one.write(3);
            assert_eq!(look(rig, 0, 64), [3]);
            assert_eq!(rig.dirty_log(0, 64), [3]);
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-13, TDP-9.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn a_page_in_two_slots_is_logged_where_it_was_written() {
    on_each::<true>(|_, rig| {
        rig.memory(0, 0, 16, Level::L1);
        rig.slot(0, 0, 16, SlotFlags::LOG_DIRTY).unwrap();
        rig.slot_in(SpaceId::SMM, 0, 0, 16, SlotFlags::LOG_DIRTY)
            .unwrap();
        let mut smm = rig.guest(0);
        smm.switch_space(SpaceId::SMM);
        smm.write(3);
        assert_eq!(rig.dirty_log(0, 16), []);
        let mut words = [0];
        rig.vm
            .read_dirty_log(SpaceId::SMM, 0, &mut words, true)
            .unwrap();
        assert_eq!(words, [1 << 3]);
    });
}

/// Proves TDP-13.
#[test]
#[cfg_attr(miri, ignore = "takes no path through unsafe code that others do not")]
fn dirty_bits_are_refused_where_the_format_has_none() {
    let host = waterbear_mock::MockHost::new();
    let user = host.new_space();
    let format = Paging::EptPlain.format(Level::L4);
    let vm = waterbear_core::vm::Vm::new(&host, user, format, DirtyBit);
    assert_eq!(vm.err(), Some(Error::NotSupported));
    host.assert_no_leaks();
}
