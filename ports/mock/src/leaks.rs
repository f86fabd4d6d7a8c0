//! What is still in use, and whether anything should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::arena::State;
use crate::{Machine, Mock};

/// Objects of the host that exist, by kind.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) mutexes: AtomicUsize,
    pub(crate) rwlocks: AtomicUsize,
    pub(crate) srcus: AtomicUsize,
    pub(crate) queues: AtomicUsize,
    pub(crate) fpus: AtomicUsize,
    pub(crate) bells: AtomicUsize,
}

/// What is in use now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Page tables that somebody owns.
    pub tables: usize,
    /// Page tables that wait for the end of a grace period.
    pub deferred_tables: usize,
    /// Blocks of heap memory.
    pub blocks: usize,
    /// Bytes in those blocks.
    pub bytes: usize,
    /// References to data pages.
    pub page_references: u64,
    /// Mutexes.
    pub mutexes: usize,
    /// Reader-writer locks.
    pub rwlocks: usize,
    /// Domains of sleepable read sections.
    pub srcus: usize,
    /// Wait queues.
    pub wait_queues: usize,
    /// Guests' FPU states.
    pub guest_fpus: usize,
    /// References to bells.
    pub bells: usize,
}

/// One object that counts as alive until it is dropped.
pub(crate) struct Alive {
    machine: Arc<Machine>,
    which: fn(&Counters) -> &AtomicUsize,
}

impl Alive {
    pub(crate) fn new(machine: &Arc<Machine>, which: fn(&Counters) -> &AtomicUsize) -> Self {
        which(&machine.live).fetch_add(1, Relaxed);
        Self {
            machine: Arc::clone(machine),
            which,
        }
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        (self.which)(&self.machine.live).fetch_sub(1, Relaxed);
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// What is in use now. Frees first what may be freed.
    pub fn live(&self) -> Live {
        let machine = &*self.0;
        machine.reclaim();
        let frames = machine.arena.live();
        let deferred = |&&pfn: &&_| machine.arena.state(pfn) == Some(State::Deferred);
        let deferred_tables = frames.iter().filter(deferred).count();
        let (blocks, bytes) = machine.heap.live();
        Live {
            tables: frames.len() - deferred_tables,
            deferred_tables,
            blocks,
            bytes,
            page_references: machine.pages.references(),
            mutexes: machine.live.mutexes.load(Relaxed),
            rwlocks: machine.live.rwlocks.load(Relaxed),
            srcus: machine.live.srcus.load(Relaxed),
            wait_queues: machine.live.queues.load(Relaxed),
            guest_fpus: machine.live.fpus.load(Relaxed),
            bells: machine.live.bells.load(Relaxed),
        }
    }

    /// Panics when anything is still in use, and says what.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        let live = self.live();
        if live == Live::default() {
            return;
        }
        let mut words = vec![format!("{live:?}")];
        for pfn in self.0.arena.live() {
            words.push(format!(
                "page table {pfn:?} ({:?})",
                self.0.arena.state(pfn)
            ));
        }
        for (pfn, count) in self.0.pages.referenced() {
            words.push(format!("{count} references to data page {pfn:?}"));
        }
        panic!("leaked: {}", words.join("; "));
    }
}
