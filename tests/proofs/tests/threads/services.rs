//! What goes on while the vCPUs run, one thread each.
use std::collections::HashMap;

use waterbear_core::memslot::{Region, SlotFlags, SpaceId};
use waterbear_core::tdp::walk::Yielding;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MapOptions;
use waterbear_proofs::Rig;
use waterbear_proofs::random::Random;

use crate::Stress;
use crate::memory::{CHANGING, CHANGING_PAGES, HOT, LOGGED, LOGGED_PAGES, MOVED, PASSING};

/// How often a service does its work.
const ROUNDS: usize = if cfg!(miri) { 2 } else { 60 };

/// The content of a frame of the logged slot: how often it was written.
fn content<const N: bool>(rig: &Rig<N>, gfn: u64) -> u64 {
    let page = rig.backing(Gfn(gfn)).expect("its pages stay");
    rig.host.data_writes(page)
}

/// Copies pages, all or those that `log` names.
fn copy<const N: bool>(rig: &Rig<N>, to: &mut HashMap<u64, u64>, log: Option<&[u64]>) {
    for gfn in HOT {
        let page = gfn - LOGGED;
        let named = |log: &[u64]| log[(page / 64) as usize] >> (page % 64) & 1 != 0;
        if log.is_none_or(named) {
            to.insert(gfn, content(rig, gfn));
        }
    }
}

/// Reads the log and lets it start anew, in one call or in two, and copies
/// what it names.
fn collect<const N: bool>(rig: &Rig<N>, to: &mut HashMap<u64, u64>, manual: bool) {
    let mut words = vec![0; LOGGED_PAGES.div_ceil(64) as usize];
    let (vm, space) = (&rig.vm, SpaceId::NORMAL);
    vm.read_dirty_log(space, 0, &mut words, !manual).unwrap();
    if manual {
        vm.clear_dirty_log(space, 0, 0, LOGGED_PAGES, &words)
            .unwrap();
    }
    copy(rig, to, Some(&words));
}

/// Keeps a copy of the logged slot as a migration does: everything once, then
/// what the log names. At the end copy and memory are equal, or a write was
/// lost.
pub fn copy_by_the_log<const N: bool>(stress: &Stress<N>) {
    let rig = &stress.rig;
    let working = stress.working();
    let mut random = Random::new(100);
    let mut memory = HashMap::new();
    let set = |flags| rig.slot(0, LOGGED, LOGGED_PAGES, flags).unwrap();
    for _ in 0..ROUNDS {
        set(SlotFlags::LOG_DIRTY);
        if random.percent(50) {
            let frames = Gfn(LOGGED)..Gfn(LOGGED + LOGGED_PAGES);
            let vm = &rig.vm;
            vm.mmu()
                .split_range(vm.vcpus(), &(), SpaceId::NORMAL, frames)
                .unwrap();
        }
        copy(rig, &mut memory, None);
        for _ in 0..random.below(5) {
            collect(rig, &mut memory, random.percent(50));
            std::thread::yield_now();
        }
        set(SlotFlags::empty());
    }
    set(SlotFlags::LOG_DIRTY);
    copy(rig, &mut memory, None);
    drop(working);
    while stress.runs() {
        collect(rig, &mut memory, random.percent(50));
        std::thread::yield_now();
    }
    collect(rig, &mut memory, false);
    for gfn in HOT {
        let (is, copied) = (content(rig, gfn), memory[&gfn]);
        assert_eq!(is, copied, "a write to frame {gfn:#x} was not logged");
    }
}

/// A change behind some frames, announced where the host does that.
fn change<const N: bool>(rig: &Rig<N>, gfn: u64, pages: u64, change: impl FnOnce()) {
    if N {
        rig.host_change(gfn, pages, change);
    } else {
        change();
    }
}

/// The host replaces, takes and protects pages. The pages that it has back
/// afterwards nobody may reach: the mock watches.
pub fn change_pages<const N: bool>(stress: &Stress<N>) {
    let rig = &stress.rig;
    let _working = stress.working();
    let mut random = Random::new(101);
    for _ in 0..ROUNDS {
        let first = random.pick(&[0, 1, 63, 500, 512]);
        let pages = random.pick(&[1, 2, 64, 512]);
        let (gfn, hva) = (CHANGING + first, Rig::<N>::hva(CHANGING + first));
        change(rig, gfn, pages, || match random.below(4) {
            0 => rig.user.unmap(hva, pages),
            1 => rig.user.protect(hva, pages, false),
            _ => {
                let level = random.pick(&[Level::L1, Level::L2]);
                rig.user.map(hva, pages, MapOptions::WRITABLE.up_to(level));
            }
        });
        // The pages of the logged slot stay, but the host may move them about.
        let (gfn, pages) = (random.pick(&HOT), random.pick(&[1, 64, 600]));
        if N {
            rig.host_change(gfn, pages, || {});
        }
    }
}

/// Slots come, change, move and go. When one is gone so are its pages.
pub fn replace_slots<const N: bool>(stress: &Stress<N>) {
    let rig = &stress.rig;
    let _working = stress.working();
    let mut random = Random::new(102);
    for _ in 0..ROUNDS {
        let (id, gfn, pages) = random.pick(&PASSING);
        let space = random.pick(&SpaceId::ALL);
        let slot = |pages, flags| rig.slot_in(space, id, gfn, pages, flags).unwrap();
        slot(pages, SlotFlags::empty());
        if random.percent(50) {
            slot(pages, SlotFlags::LOG_DIRTY);
            slot(pages, SlotFlags::empty());
        }
        if random.percent(30) {
            rig.vm
                .set_region(Region {
                    space: space.index() as u32,
                    id,
                    flags: 0,
                    guest_phys_addr: MOVED * PAGE_SIZE,
                    memory_size: pages * PAGE_SIZE,
                    userspace_addr: Rig::<N>::hva(gfn).0,
                })
                .unwrap();
        }
        slot(0, SlotFlags::empty());
        change(rig, gfn, pages, || {
            let level = random.pick(&[Level::L1, Level::L2]);
            rig.back(gfn, pages, MapOptions::WRITABLE.up_to(level));
        });
    }
}

/// Tracks pages, whose writes are then all seen; asks for the age of pages.
pub fn track_and_age<const N: bool>(stress: &Stress<N>) {
    let (rig, vm) = (&stress.rig, &stress.rig.vm);
    let _working = stress.working();
    let mut random = Random::new(103);
    for _ in 0..ROUNDS {
        let gfn = random.pick(&HOT);
        vm.track_page(SpaceId::NORMAL, Gfn(gfn)).unwrap();
        let before = content(rig, gfn);
        for _ in 0..4 {
            let first = random.pick(&[LOGGED, 512, CHANGING, CHANGING + 512]);
            let range = Rig::<N>::hva(first)..Rig::<N>::hva(first + random.pick(&[1, 64, 520]));
            vm.age(range.clone());
            let _ = vm.is_young(range);
        }
        assert_eq!(content(rig, gfn), before, "a tracked page was written");
        vm.untrack_page(SpaceId::NORMAL, Gfn(gfn)).unwrap();
    }
}

/// Every vCPU gets a new root, and some mappings go for no reason.
pub fn replace_roots<const N: bool>(stress: &Stress<N>) {
    let vm = &stress.rig.vm;
    let _working = stress.working();
    let mut random = Random::new(104);
    for _ in 0..ROUNDS {
        {
            let _turn = vm.memslots().lock();
            let slots = vm.memslots().read();
            let logs = SpaceId::ALL.map(|space| slots.set(space));
            vm.mmu().invalidate_roots(vm.vcpus(), logs);
        }
        for _ in 0..5 {
            let slots = vm.memslots().read();
            let (space, first) = (random.pick(&SpaceId::ALL), random.pick(&[0, 512, CHANGING]));
            let frames = Gfn(first)..Gfn(first + random.pick(&[1, 512, CHANGING_PAGES]));
            let yielding = random.pick(&[Yielding::Allowed, Yielding::Forbidden]);
            vm.mmu()
                .zap(vm.vcpus(), slots.set(space), space, frames, yielding);
            drop(slots);
            std::thread::yield_now();
        }
    }
}
