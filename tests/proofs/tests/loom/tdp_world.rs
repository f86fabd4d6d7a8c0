//! The least that has second-level page tables: a root of two levels, four
//! frames, memory of a process behind them, and CPUs with TLBs. No slots and
//! no vCPUs, so that a model explores the tables and nothing else.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread::{self, JoinHandle};

use waterbear_core::memslot::SpaceId;
use waterbear_core::memslot::dirty::DirtyBitmap;
use waterbear_core::spte::LeafRights;
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_core::tdp::walk::Yielding;
use waterbear_core::tdp::{
    DirtyLog, DirtyTracking, FastFault, Goal, Mapped, Mmu, RootRef, RootRole, TableCache, Tlb,
};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::{Gfn, Hva, Level, Pfn, Rcu, User};
use waterbear_mock::hw::{Access, Decoded, EntryMemory, Fault as Missed, Tlb as Cache, Walker};
use waterbear_mock::{MapOptions, MockConfig, MockHost, Space};
use waterbear_proofs::Paging;

/// The address space of every model.
pub const SPACE: SpaceId = SpaceId::NORMAL;
/// How many frames the root reaches.
pub const FRAMES: u64 = 4;

/// A write.
pub const WRITE: Wanted = Wanted {
    write: true,
    exec: false,
    guest_walk: false,
    absent: false,
};

/// What a fault is for and what it gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A read, in a slot whose log is kept by write protection: no W.
    Read,
    /// A read where nothing is against W, which comes with it. Not dirty.
    ReadWritable,
    /// A write: W, and dirty.
    Write,
}

/// The CPUs' TLBs. An access holds its CPU's lock, as an instruction of the
/// guest keeps the CPU from taking the interrupt that asks for a flush.
pub struct Tlbs(Vec<Mutex<Cache>>);

impl Tlb for Tlbs {
    fn flush(&self, _start: Gfn, _end: Gfn) {
        for tlb in &self.0 {
            tlb.lock().expect("nobody panicked").flush();
        }
    }

    /// Models that invalidate roots run no guest.
    fn reload_roots(&self) {}
}

/// A dirty log of all frames.
pub struct Log(pub DirtyBitmap<MockHost>);

impl DirtyLog for Log {
    fn mark(&self, gfn: Gfn, level: Level) {
        for page in 0..level.pages() {
            self.0.mark(gfn.0 + page);
        }
    }
}

/// Second-level page tables and who uses them.
pub struct World {
    pub mmu: Mmu<MockHost>,
    pub root: RootRef<MockHost>,
    pub tlbs: Tlbs,
    pub log: Log,
    pub user: Space,
    walker: Walker,
    pub host: MockHost,
}

impl World {
    /// A world of one CPU whose process has memory behind every frame, in
    /// pages as large as can be, and where nothing is mapped yet.
    pub fn new(paging: Paging, dirty: DirtyTracking) -> Arc<Self> {
        let host = MockHost::with(MockConfig::new().tables(24));
        let user = host.new_space();
        let options = MapOptions::WRITABLE.up_to(Paging::ROOT);
        user.map(hva(0), FRAMES, options);
        let mmu = Mmu::new(&host, paging.format(Paging::ROOT), dirty).expect("memory");
        let walker = paging.walker(Paging::ROOT);
        Arc::new(Self {
            root: mmu.root(RootRole { space: SPACE }).expect("memory"),
            mmu,
            tlbs: Tlbs(vec![Mutex::new(Cache::new(walker))]),
            log: Log(DirtyBitmap::new(&host, FRAMES, false).expect("memory")),
            user,
            walker,
            host,
        })
    }

    /// EPT with accessed and dirty bits, and the log kept by write protection.
    pub fn usual() -> Arc<Self> {
        Self::new(Paging::Ept, DirtyTracking::WriteProtect)
    }

    /// The page that the process has behind `gfn`.
    #[track_caller]
    pub fn page(&self, gfn: u64) -> Pfn {
        self.user.lookup(hva(gfn)).expect("there is memory")
    }

    /// A full cache for one fault.
    pub fn cache(&self) -> TableCache<MockHost> {
        let mut cache = TableCache::new();
        cache.top_up(&self.host).expect("memory");
        cache
    }

    /// Maps `pfn` at `gfn` as a fault would that found it just now.
    pub fn install(
        &self,
        cache: &mut TableCache<MockHost>,
        (gfn, level): (u64, Level),
        pfn: Pfn,
        fault: Fault,
    ) -> Mapped {
        let snapshot = self.mmu.snapshot();
        let sinks = (&self.tlbs, &self.log);
        let goal = || goal(gfn, level, pfn, fault);
        let (mapped, _) = self.mmu.install(sinks, &self.root, cache, snapshot, goal);
        mapped
    }

    /// A write fault from beginning to end, as `Vm::handle_fault` does it. Maps
    /// as large a leaf as the host's page allows.
    pub fn fault(&self, cache: &mut TableCache<MockHost>, gfn: u64) -> Mapped {
        let snapshot = self.mmu.snapshot();
        let found = self.host.resolve(&self.user, hva(gfn), true);
        let page = found.expect("there is memory");
        let sinks = (&self.tlbs, &self.log);
        let goal = || goal(gfn, page.level, page.pfn, Fault::Write);
        let (mapped, _) = self.mmu.install(sinks, &self.root, cache, snapshot, goal);
        self.host.release(page.pfn, true);
        mapped
    }

    /// Maps the page behind `gfn` before the race begins.
    pub fn map(&self, gfn: u64, level: Level, fault: Fault) {
        let mut cache = self.cache();
        let mapped = self.install(&mut cache, (gfn, level), self.page(gfn), fault);
        assert_eq!(mapped, Mapped::Installed);
    }

    /// The lockless fast path, for a write.
    pub fn fast_write(&self, gfn: u64) -> FastFault {
        self.mmu
            .fast_fault(&self.root, Gfn(gfn), WRITE, &self.log, true)
    }

    /// Removes what is mapped of some frames.
    pub fn zap(&self, from: u64, to: u64) {
        let frames = Gfn(from)..Gfn(to);
        self.mmu
            .zap(&self.tlbs, &self.log, SPACE, frames, Yielding::Allowed);
    }

    /// The guest reads or writes, by one instruction that does not fault.
    ///
    /// # Errors
    ///
    /// The fault.
    pub fn access(&self, gfn: u64, wanted: Access) -> Result<Pfn, Missed> {
        let mut tlb = self.tlbs.0[0].lock().expect("nobody panicked");
        let pfn = tlb.access(&self.host, self.root.pfn(), Gfn(gfn).gpa(), wanted)?;
        if wanted.write {
            self.host.data_write(pfn);
        } else {
            self.host.data_read(pfn);
        }
        Ok(pfn)
    }

    /// Where a CPU without a TLB finds the frame.
    pub fn reaches(&self, gfn: u64, wanted: Access) -> Option<Pfn> {
        let root = self.root.pfn();
        let found = self
            .walker
            .translate(&self.host, root, Gfn(gfn).gpa(), wanted);
        found.ok().map(|found| found.pfn)
    }

    /// The tables below the root, and the leaves at both levels, as hardware
    /// would find them.
    pub fn census(&self) -> (usize, [i64; 2]) {
        let (mut tables, mut leaves) = (0, [0; 2]);
        let mut todo = vec![(self.root.pfn(), Paging::ROOT)];
        while let Some((table, level)) = todo.pop() {
            for index in 0..ENTRIES {
                let entry = self.host.read_entry(table, index);
                let format = self.walker.format;
                match format.decode(entry, level, self.walker.maxphyaddr) {
                    Decoded::Table { pfn, .. } => {
                        tables += 1;
                        todo.push((pfn, level.below().expect("a link is above L1")));
                    }
                    Decoded::Leaf { .. } => leaves[level as usize - 1] += 1,
                    Decoded::NotPresent | Decoded::Broken => {}
                }
            }
        }
        (tables, leaves)
    }

    /// Nothing is lost: the tables that exist are those that hardware finds,
    /// and so are the leaves that the core counts.
    #[track_caller]
    pub fn check_books(&self) {
        let (tables, leaves) = self.census();
        let live = self.host.live();
        assert_eq!(live.deferred_tables, 0, "no section is open");
        assert_eq!(live.tables, tables + 1, "twin: a page table was lost");
        let counted = [Level::L1, Level::L2].map(|level| self.mmu.mapped(level));
        assert_eq!(
            counted, leaves,
            "twin: leaves are counted that nobody can reach"
        );
    }

    /// Runs `f` on a second thread.
    pub fn spawn<T: 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&World) -> T + 'static,
    ) -> JoinHandle<T> {
        let world = Arc::clone(self);
        thread::spawn(move || f(&world))
    }

    /// Takes the world down and looks for what is left.
    #[track_caller]
    pub fn end(self: Arc<Self>) {
        let Ok(world) = Arc::try_unwrap(self) else {
            panic!("somebody still uses the world");
        };
        let World {
            mmu,
            root,
            tlbs,
            log,
            user,
            host,
            ..
        } = world;
        mmu.invalidate_roots(&tlbs, [&log, &log]);
        drop((mmu, root, log, user));
        host.rcu_barrier();
        host.assert_no_leaks();
    }
}

/// Where the process has frame `gfn`.
pub fn hva(gfn: u64) -> Hva {
    Hva(0x10_0000 + gfn * PAGE_SIZE)
}

fn goal(gfn: u64, level: Level, pfn: Pfn, fault: Fault) -> Goal {
    let write = fault == Fault::Write;
    Goal {
        gfn: Gfn(gfn),
        pfn,
        level,
        rights: LeafRights {
            write: fault != Fault::Read,
            mmu_writable: true,
            host_writable: true,
            dirty: write,
            uncached: false,
        },
        write,
        exec: false,
    }
}
