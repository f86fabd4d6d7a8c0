//! What the tests share: the kinds of paging to go through, a view of the
//! tables that changes nothing, and a TLB that tells of its flushes.
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

use waterbear_core::tdp::DirtyTracking::{DirtyBit, WriteProtect};
use waterbear_core::tdp::{DirtyTracking, Tlb};
use waterbear_hal::{Gfn, Level, Pfn};
use waterbear_mock::hw::{Access, EntryMemory, Fault, Translation, Walker};
use waterbear_mock::{Mock, MockConfig};
use waterbear_proofs::{Guest, Paging, Rig};

/// One way to run a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub paging: Paging,
    pub root: Level,
    pub dirty: DirtyTracking,
}

impl Case {
    /// A rig for this case.
    pub fn rig<const N: bool>(self) -> Rig<N> {
        Rig::with(
            MockConfig::default().tables(if cfg!(miri) { 64 } else { 512 }),
            self.paging,
            self.root,
            self.dirty,
        )
    }
}

/// A number that grows with each call.
pub fn turn() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Every kind of paging, with four levels and five, in each way to find
/// writes. Under Miri, which is slow, one case, another each time.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for paging in Paging::ALL {
        for root in [Level::L4, Level::L5] {
            for dirty in [WriteProtect, DirtyBit] {
                if paging != Paging::EptPlain || dirty != DirtyBit {
                    let case = Case {
                        paging,
                        root,
                        dirty,
                    };
                    all.push(case);
                }
            }
        }
    }
    if cfg!(miri) {
        all.rotate_left(turn() % 10);
        all.truncate(1);
    }
    all
}

/// Runs `test` in every case, each time on a fresh rig, and checks that
/// nothing is left.
pub fn on_each<const N: bool>(test: impl Fn(Case, &Rig<N>)) {
    for case in cases() {
        let rig = case.rig::<N>();
        test(case, &rig);
        end(rig);
    }
}

/// As [`on_each`], on the host with notifications and on the one without;
/// under Miri on one of them.
macro_rules! on_both_hosts {
    ($test:ident) => {
        let only = cfg!(miri).then(|| $crate::support::turn().is_multiple_of(2));
        if only != Some(false) {
            $crate::support::on_each::<true>($test::<true>);
        }
        if only != Some(true) {
            $crate::support::on_each::<false>($test::<false>);
        }
    };
}
pub(crate) use on_both_hosts;

/// Ends a rig: with the roots gone nothing is mapped and nothing referenced.
#[track_caller]
pub fn end<const N: bool>(rig: Rig<N>) {
    rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]);
    for level in Level::LEAVES {
        assert_eq!(rig.vm.mmu().mapped(level), 0, "leaves at {level:?}");
    }
    assert_eq!(rig.host.live().page_references, 0);
    rig.finish();
}

/// Page tables to look at: walking them sets no bits.
pub struct Look<'a, const N: bool>(pub &'a Mock<N>);

impl<const N: bool> EntryMemory for Look<'_, N> {
    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        self.0.read_entry(table, index)
    }
}

/// What hardware would find at `gfn`.
pub fn peek(
    walker: &Walker,
    memory: &impl EntryMemory,
    root: Pfn,
    gfn: u64,
) -> Result<Translation, Fault> {
    walker.translate(memory, root, Gfn(gfn).gpa(), Access::NONE)
}

/// What the tables below `root` map at `gfn`.
pub fn mapping<const N: bool>(rig: &Rig<N>, root: Pfn, gfn: u64) -> Option<Translation> {
    peek(&rig.walker, &Look(&rig.host), root, gfn).ok()
}

/// The root that a guest runs on.
#[track_caller]
pub fn root<const N: bool>(guest: &Guest<'_, N>) -> Pfn {
    guest.mmu.root().expect("it ran").pfn()
}

/// The vCPUs, with a record of what was flushed. Each flush checks that it
/// comes under the lock and inside the section that keeps tables alive.
pub struct Watch<'a, const N: bool> {
    pub rig: &'a Rig<N>,
    pub flushes: RefCell<Vec<(u64, u64)>>,
    pub reloads: Cell<u32>,
    pub at_flush: Option<&'a dyn Fn()>,
}

impl<'a, const N: bool> Watch<'a, N> {
    pub fn new(rig: &'a Rig<N>) -> Self {
        Self {
            rig,
            flushes: RefCell::default(),
            reloads: Cell::new(0),
            at_flush: None,
        }
    }

    pub fn at_flush(rig: &'a Rig<N>, hook: &'a dyn Fn()) -> Self {
        Self {
            at_flush: Some(hook),
            ..Self::new(rig)
        }
    }

    pub fn count(&self) -> usize {
        self.flushes.borrow().len()
    }

    /// Whether what was flushed contains the frame.
    pub fn flushed(&self, gfn: u64) -> bool {
        let flushes = self.flushes.borrow();
        flushes
            .iter()
            .any(|&(start, end)| (start..end).contains(&gfn))
    }
}

impl<const N: bool> Tlb for Watch<'_, N> {
    fn flush(&self, start: Gfn, end: Gfn) {
        let host = &self.rig.host;
        assert!(host.in_rcu_section(), "flushed after the section ended");
        assert!(
            host.held_locks().contains(&"mmu_lock"),
            "flushed without the lock"
        );
        assert!(start < end, "flushed nothing: {start:?} to {end:?}");
        self.flushes.borrow_mut().push((start.0, end.0));
        if let Some(hook) = self.at_flush {
            hook();
        }
        self.rig.vm.vcpus().flush(start, end);
    }

    fn reload_roots(&self) {
        assert!(self.rig.host.held_locks().contains(&"mmu_lock"));
        self.reloads.set(self.reloads.get() + 1);
        self.rig.vm.vcpus().reload_roots();
    }
}
