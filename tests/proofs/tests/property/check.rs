//! Looks at page tables and TLBs, and asks the model whether they may be so.
use waterbear_core::memslot::SpaceId;
use waterbear_core::request::Request;
use waterbear_core::spte::PRESENT;
use waterbear_core::tdp::{DirtyTracking, RootRole};
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::{Gfn, Level, Pfn};
use waterbear_mock::Mock;
use waterbear_mock::hw::{Decoded, EntryMemory, Translation, Walker};
use waterbear_proofs::{Guest, Rig};

use crate::model::{Dirty, Model};

/// Where a walk from `root` would lead, without setting a bit.
fn look<const N: bool>(
    host: &Mock<N>,
    walker: &Walker,
    root: Pfn,
    gfn: Gfn,
) -> Option<Translation> {
    let start = walker.root(root);
    let (mut table, mut level, mut allows) = (start.table, start.level, start.allows);
    loop {
        let entry = host.read_entry(table, gfn.index(level));
        match walker.format.decode(entry, level, walker.maxphyaddr) {
            Decoded::NotPresent | Decoded::Broken => return None,
            Decoded::Table { pfn, allows: here } => {
                (table, allows) = (pfn, allows.and(here));
                level = level.below()?;
            }
            Decoded::Leaf {
                pfn,
                allows: here,
                dirty,
            } => {
                return Some(Translation {
                    pfn: pfn.add(gfn.0 & (level.pages() - 1)),
                    level,
                    allows: allows.and(here),
                    dirty,
                });
            }
        }
    }
}

/// Panics if the frame must not be mapped like that.
#[track_caller]
fn judge(model: &Model, place: &str, space: usize, gfn: u64, found: Translation) {
    let wrong = |why: &str| {
        panic!("{place} of space {space} maps frame {gfn:#x} by {found:?}: {why}");
    };
    let Some(slot) = model.slot_at(space, gfn) else {
        return wrong("there is no slot");
    };
    let page = model.page_at(slot, gfn);
    let current = page.is_some_and(|page| page.pfn == found.pfn);
    if !current && model.held(space, gfn) != Some(found.pfn) {
        wrong("the process has another page there");
    }
    if found.allows.write {
        if slot.read_only() {
            wrong("a read-only slot is writable");
        }
        if slot.is_tracked(gfn) {
            wrong("a tracked page is writable");
        }
        if model.notifier && !page.is_some_and(|page| page.writable) {
            wrong("the process cannot write there");
        }
    }
    if found.level > Level::L1
        && found.allows.write
        && model.tracks_near(space, gfn, found.level.pages())
    {
        wrong("a large mapping of a tracked page is writable");
    }
    if slot.logs() {
        if found.allows.write && found.level > Level::L1 {
            wrong("a large mapping is writable under the log");
        }
        let unseen = match model.dirty {
            DirtyTracking::WriteProtect => found.allows.write,
            DirtyTracking::DirtyBit => found.allows.write && found.dirty,
        };
        if unseen && slot.dirty_at(gfn).is_none() {
            wrong("a write would not be logged");
        }
        if unseen
            && model.dirty == DirtyTracking::WriteProtect
            && slot.dirty_at(gfn) != Some(Dirty::Marked)
        {
            wrong("a write would not be marked");
        }
    }
}

/// Whether the guest would enter with the root and the TLB that it has.
fn is_settled<const N: bool>(guest: &Guest<'_, N>) -> bool {
    let requests = guest.vcpu().requests();
    !requests.test(Request::MMU_RELOAD) && !requests.test(Request::TLB_FLUSH)
}

/// Checks what a guest could reach without another exit.
pub fn guest<const N: bool>(
    rig: &Rig<N>,
    model: &Model,
    guest: &mut Guest<'_, N>,
    space: usize,
    frames: &[u64],
    tables: bool,
) {
    let Some(root) = guest.mmu.root().map(|root| root.pfn()) else {
        return;
    };
    if !is_settled(guest) {
        return;
    }
    for &gfn in frames {
        if let Some(found) = guest.tlb().peek(root, Gfn(gfn).gpa()) {
            judge(model, "the TLB", space, gfn, found);
        }
        if tables
            && gfn < rig.vm.mmu().format().end().0
            && let Some(found) = look(&rig.host, &rig.walker, root, Gfn(gfn))
        {
            judge(model, "the page tables", space, gfn, found);
        }
    }
}

/// Counts the leaves under `table`, per level.
fn count<const N: bool>(host: &Mock<N>, table: Pfn, level: Level, counts: &mut [i64; 3]) {
    for index in 0..ENTRIES {
        let entry = host.read_entry(table, index);
        if entry & PRESENT == 0 {
            continue;
        }
        if level == Level::L1 || entry & (1 << 7) != 0 {
            counts[level as usize - 1] += 1;
        } else if let Some(below) = level.below() {
            let pfn = Pfn(entry >> 12 & ((1 << 34) - 1));
            count(host, pfn, below, counts);
        }
    }
}

/// Checks that the books are right: the number of leaves, and on a host
/// without notifications one reference per leaf and none else.
pub fn books<const N: bool>(rig: &Rig<N>) {
    let mut counts = [0; 3];
    for space in SpaceId::ALL {
        let root = rig.vm.mmu().root(RootRole { space });
        let root = root.expect("no allocation fails now");
        count(&rig.host, root.pfn(), rig.walker.root_level, &mut counts);
    }
    for level in Level::LEAVES {
        assert_eq!(
            rig.vm.mmu().mapped(level),
            counts[level as usize - 1],
            "the number of leaves at {level:?}"
        );
    }
    let references = if N { 0 } else { counts[0] as u64 };
    assert_eq!(rig.host.live().page_references, references);
}
