//! Tracking a page while others make it writable.
//!
//! Tables have two entries and two levels, so there are four frames. "The
//! guest" is the simulated hardware: a TLB that forgets only what it is told
//! to.
use std::fmt::Debug;
use std::ops::{Deref, DerefMut};

use loom::sync::{Arc, Mutex};
use loom::thread;

use waterbear_core::memslot::{Region, SpaceId};
use waterbear_core::spte::LeafRights;
use waterbear_core::tdp::DirtyTracking::WriteProtect;
use waterbear_core::tdp::fast::Access;
use waterbear_core::tdp::{FastFault, Goal, Mapped, Mmu, RootRef, RootRole, TableCache, Tlb};
use waterbear_core::vm::{Outcome, VcpuMmu, Vm};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Gfn, Hva, Level, Pfn};
use waterbear_mock::hw;
use waterbear_mock::{MapOptions, MockConfig, MockHost};
use waterbear_proofs::Paging;

use crate::twins::{explore, explore_bounded, must_fail};

const NORMAL: SpaceId = SpaceId::NORMAL;
const PAGE: Gfn = Gfn(1);
const WRITE: Access = Access {
    write: true,
    exec: false,
    guest_walk: false,
    absent: false,
};

/// A value that is forgotten when its model has failed: the checker takes no
/// operation any more then, and the value's end has some.
struct Kept<T>(Option<T>);

impl<T> Kept<T> {
    fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

/// What the runs of a model came to, so that it cannot miss a case unnoticed.
#[derive(Clone)]
struct Seen<T>(std::sync::Arc<std::sync::Mutex<Vec<T>>>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<T: PartialEq + Debug> Seen<T> {
    fn note(&self, case: T) {
        self.0.lock().unwrap().push(case);
    }

    #[track_caller]
    fn check(&self, cases: &[T]) {
        let seen = self.0.lock().unwrap();
        for case in cases {
            assert!(seen.contains(case), "no run came to {case:?}");
        }
    }
}

/// Page tables with one mapped page, and the TLB of the CPU that uses them.
struct Tables {
    host: MockHost,
    mmu: Mmu<MockHost>,
    root: RootRef<MockHost>,
    tlb: Mutex<hw::Tlb>,
}

impl Tlb for Tables {
    fn flush(&self, _start: Gfn, _end: Gfn) {
        self.tlb.lock().unwrap().flush();
    }
    fn reload_roots(&self) {}
}

impl Tables {
    /// The page is mapped; it may become writable without the lock.
    fn new() -> Self {
        let host = MockHost::with(MockConfig::new().cpus(1));
        let mmu = Mmu::new(&host, Paging::Npt.format(Paging::ROOT), WriteProtect).expect("memory");
        let root = mmu.root(RootRole { space: NORMAL }).expect("memory");
        let tables = Self {
            tlb: Mutex::new(hw::Tlb::new(Paging::Npt.walker(Paging::ROOT))),
            host,
            mmu,
            root,
        };
        let mut cache = TableCache::new();
        cache.top_up(&tables.host).expect("memory");
        let goal = Goal {
            gfn: PAGE,
            pfn: Pfn(0x9000),
            level: Level::L1,
            rights: LeafRights {
                write: false,
                mmu_writable: true,
                host_writable: true,
                dirty: false,
                uncached: false,
            },
            write: false,
            exec: false,
        };
        let snapshot = tables.mmu.snapshot();
        let (mapped, _) =
            tables
                .mmu
                .install((&tables, &()), &tables.root, &mut cache, snapshot, || goal);
        assert_eq!(mapped, Mapped::Installed);
        tables
    }

    /// Whether the guest can write to the page without an exit.
    fn guest_writes(&self) -> bool {
        let mut tlb = self.tlb.lock().unwrap();
        tlb.access(&self.host, self.root.pfn(), PAGE.gpa(), hw::Access::WRITE)
            .is_ok()
    }

    fn track(&self) {
        self.mmu
            .change_tracking(self, [&(), &()], PAGE, || Ok(true))
            .expect("nothing fails");
        assert!(
            !self.guest_writes(),
            "twin: the guest writes to a page that is tracked"
        );
    }
}

/// A page is tracked while the fast path makes it writable.
fn tracking_against_the_fast_path() {
    let seen = Seen::default();
    let all = seen.clone();
    explore(move || {
        let tables = Arc::new(Kept::new(Tables::new()));
        let fault = {
            let (tables, seen) = (tables.clone(), seen.clone());
            thread::spawn(move || {
                let fixed = tables.mmu.fast_fault(&tables.root, PAGE, WRITE, &(), false);
                if fixed == FastFault::Fixed {
                    // Perhaps the page is tracked by now. If not, the TLB has
                    // W from here on.
                    tables.guest_writes();
                }
                seen.note(fixed);
                tables
            })
        };
        tables.track();
        fault.join().unwrap();
        assert!(
            !tables.guest_writes(),
            "twin: the guest writes to a page that is tracked"
        );
    });
    all.check(&[FastFault::Fixed, FastFault::Slow]);
}

/// Proves PT-2, PT-4, TDP-11.
#[test]
fn no_write_goes_unseen_when_the_fast_path_comes_as_the_page_is_tracked() {
    tracking_against_the_fast_path();
}

/// Proves PT-4, TDP-11.
#[test]
fn the_fast_path_gives_a_tracked_page_away_when_it_stores_blindly_twin() {
    must_fail(Part::FastPathCas, "twin: ", tracking_against_the_fast_path);
}

/// A VM with one slot, and a vCPU's faults.
struct Machine {
    host: MockHost,
    vm: Kept<Vm<MockHost>>,
}

impl Machine {
    fn new() -> Arc<Self> {
        let host = MockHost::with(MockConfig::new().cpus(1));
        let user = host.new_space();
        let hva = Hva(0x7000_0000_0000);
        user.map(hva, 2, MapOptions::WRITABLE);
        let format = Paging::Npt.format(Paging::ROOT);
        let vm = Vm::new(&host, user, format, WriteProtect).expect("memory");
        vm.set_region(Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: 2 * PAGE_SIZE,
            userspace_addr: hva.0,
        })
        .expect("a good slot");
        Arc::new(Self {
            host,
            vm: Kept::new(vm),
        })
    }

    /// A vCPU that has a root.
    fn vcpu(&self) -> Kept<VcpuMmu<MockHost>> {
        let mut vcpu = Kept::new(VcpuMmu::new());
        self.vm.load_root(&mut vcpu).expect("memory");
        vcpu
    }

    fn fault(&self, vcpu: &mut VcpuMmu<MockHost>) -> Outcome {
        self.vm
            .handle_fault(vcpu, PAGE.gpa(), WRITE)
            .expect("there is memory")
    }

    /// Whether the tables let the guest write to the page.
    fn is_writable(&self, vcpu: &VcpuMmu<MockHost>) -> bool {
        let walker = Paging::Npt.walker(Paging::ROOT);
        let root = vcpu.root().expect("the vCPU has a root").pfn();
        hw::Tlb::new(walker)
            .access(&self.host, root, PAGE.gpa(), hw::Access::WRITE)
            .is_ok()
    }
}

/// A page is tracked while a fault installs it or gives W back.
fn tracking_against_a_fault(setup: Setup) {
    let seen = Seen::default();
    let all = seen.clone();
    explore_bounded(3, move || {
        let machine = Machine::new();
        let mut vcpu = machine.vcpu();
        setup(&machine, &mut vcpu);
        let track = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.vm.track_page(NORMAL, PAGE).expect("it can");
                machine
            })
        };
        let outcome = machine.fault(&mut vcpu);
        seen.note(outcome);
        track.join().unwrap();
        assert!(
            !machine.is_writable(&vcpu),
            "twin: a tracked page is writable after {outcome:?}"
        );
        assert_eq!(machine.fault(&mut vcpu), Outcome::Emulate);
    });
    all.check(&[Outcome::Emulate, Outcome::Resume]);
}

/// Brings a machine to where a model begins.
type Setup = fn(&Machine, &mut VcpuMmu<MockHost>);

/// Somebody tracks another page.
fn counted(machine: &Machine, _vcpu: &mut VcpuMmu<MockHost>) {
    machine.vm.memslots().activate_track().expect("memory");
}

/// Proves PT-3, PT-4.
#[test]
fn a_fault_that_misses_a_new_tracker_installs_no_writable_page() {
    tracking_against_a_fault(counted);
}

/// Proves PT-4.
#[test]
fn a_fault_that_misses_a_new_tracker_and_does_not_look_again_twin() {
    must_fail(Part::TrackRecheck, "twin: ", || {
        tracking_against_a_fault(counted);
    });
}

/// Proves PT-4, MS-5.
#[test]
fn a_fault_that_misses_the_first_tracker_of_all_installs_no_writable_page() {
    tracking_against_a_fault(|_machine, _vcpu| ());
}

/// Proves PT-2, PT-4.
#[test]
fn a_fault_on_a_page_that_is_mapped_keeps_nothing_from_a_new_tracker() {
    tracking_against_a_fault(|machine, vcpu| {
        counted(machine, vcpu);
        // As the dirty log leaves it: the fast path may give W back.
        machine.vm.prefault(vcpu, PAGE.gpa()).expect("memory");
        let (mmu, vcpus) = (machine.vm.mmu(), machine.vm.vcpus());
        mmu.start_logging(vcpus, &(), NORMAL, PAGE..PAGE.add(1));
    });
}

/// Proves PT-4.
#[test]
fn a_fault_that_sees_a_tracker_that_goes_costs_one_emulation() {
    let seen = Seen::default();
    let all = seen.clone();
    explore(move || {
        let machine = Machine::new();
        machine.vm.track_page(NORMAL, PAGE).expect("it can");
        let mut vcpu = machine.vcpu();
        let untrack = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.vm.untrack_page(NORMAL, PAGE).expect("it can");
                machine
            })
        };
        let first = machine.fault(&mut vcpu);
        seen.note(first);
        untrack.join().unwrap();
        if first == Outcome::Emulate {
            assert_eq!(machine.fault(&mut vcpu), Outcome::Resume);
        }
        assert!(machine.is_writable(&vcpu), "the next write is as any other");
    });
    all.check(&[Outcome::Emulate, Outcome::Resume]);
}
