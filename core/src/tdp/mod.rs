//! Second-level page tables: what the guest sees as physical memory.
//!
//! One walker and one set of algorithms serve every entry format.
//!
//! | file | idea |
//! |---|---|
//! | [`table`] | live tables, and why following a link is sound |
//! | [`iter`] | walking a range, and nothing else |
//! | [`transition`] | which change of an entry is legal and what it calls for |
//! | [`entry`] | the one function that every write goes through |
//! | [`flush`] | what an operation owes before it ends |
//! | [`root`] | root tables: shared, invalidated, replaced |
//! | [`walk`] | long walks under the lock, in sections |
//! | [`map`] | a fault installs a mapping, in parallel with others |
//! | [`quick`] | the same, where nobody has to wait |
//! | [`fast`] | the lockless fast path |
//! | [`zap`] | removing mappings |
//! | [`dirty`] | write protection and the dirty log |
//! | [`age`] | which pages are in use |
//! | [`split`] | large mappings into small ones |
//! | [`invalidate`] | the host's changes, against faults in flight |
//! | [`mmio`] | entries that say "no memory here" |
//!
//! # Locks
//!
//! `mmu_lock` is a reader-writer lock. Faults hold it for reading and change
//! entries by compare-exchange, in parallel. Whoever must know that no fault
//! is half-way holds it for writing: unmap notifications, slot removal,
//! invalidation of roots, changes of page-track counts. Every walk happens
//! inside an RCU read section, opened after the lock and left before it.
pub mod age;
pub mod cache;
pub mod dirty;
pub mod entry;
pub mod fast;
pub mod flush;
pub mod invalidate;
pub mod iter;
pub mod map;
pub mod mmio;
pub mod quick;
pub mod root;
pub mod split;
pub mod table;
pub mod transition;
pub mod walk;
pub mod zap;

use waterbear_hal::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use waterbear_hal::{Hal, Level};

pub use cache::TableCache;
pub use fast::FastFault;
pub use flush::{DirtyLog, Tlb};
pub use map::{Goal, Mapped};
pub use root::{Root, RootRef, RootRole};
pub use table::Space;

use crate::Error;
use crate::lock::RwLock;
use crate::lock_order;
use crate::spte::EntryFormat;
use invalidate::Invalidation;
use root::Roots;

/// How a VM learns which pages the guest wrote to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyTracking {
    /// Pages are write-protected, and a write faults. Works everywhere.
    WriteProtect,
    /// Hardware sets a dirty bit, and collecting the log scans for it. Needs a
    /// format with dirty bits.
    DirtyBit,
}

/// What `mmu_lock` protects.
pub struct State<H: Hal> {
    pub(crate) roots: Roots<H>,
    pub(crate) invalidation: Invalidation,
}

/// The second-level page tables of a VM.
pub struct Mmu<H: Hal> {
    /// `[I]` the host and the entry format.
    pub(crate) space: Space<H>,
    /// `[I]` how writes are found.
    pub(crate) dirty: DirtyTracking,
    /// Rank `mmu_lock`.
    pub(crate) lock: RwLock<H, State<H>>,
    /// `[a]` raised, under the write lock, whenever an invalidation ends.
    pub(crate) sequence: AtomicU64,
    /// `[a]` leaves per level; a statistic.
    pub(crate) mapped: [AtomicI64; 3],
    /// `[a]` leaves that were removed; a statistic.
    pub(crate) zapped: core::sync::atomic::AtomicU64,
}

impl<H: Hal> Mmu<H> {
    /// Tables without a root. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; [`Error::NotSupported`] for dirty bits that the
    /// format does not have.
    pub fn new(hal: &H, format: EntryFormat, dirty: DirtyTracking) -> Result<Self, Error> {
        if dirty == DirtyTracking::DirtyBit && !format.has_accessed_dirty() {
            return Err(Error::NotSupported);
        }
        let state = State {
            roots: Roots::new(),
            invalidation: Invalidation::default(),
        };
        Ok(Self {
            space: Space {
                hal: hal.clone(),
                format,
            },
            dirty,
            lock: RwLock::new(hal, &lock_order::MMU, state)?,
            sequence: AtomicU64::new(0),
            mapped: [const { 0 }; 3].map(AtomicI64::new),
            zapped: core::sync::atomic::AtomicU64::new(0),
        })
    }

    /// What the entries look like.
    pub fn format(&self) -> &EntryFormat {
        &self.space.format
    }

    /// The number of leaves at `level` that are mapped now.
    pub fn mapped(&self, level: Level) -> i64 {
        self.mapped
            .get(level as usize - 1)
            .map_or(0, |leaves| leaves.load(Ordering::Relaxed))
    }

    /// How many leaves were removed since the VM was made, but for those that made room for others
    /// in the same operation.
    pub fn zapped(&self) -> u64 {
        self.zapped.load(Ordering::Relaxed)
    }

    /// The largest leaf that this host and this format can have.
    ///
    /// Without change notifications a mapping owns a reference to the page it
    /// maps, and a reference is to 4 KiB.
    pub fn max_leaf(&self) -> Level {
        if H::HAS_NOTIFIER {
            self.space.format.max_leaf()
        } else {
            Level::L1
        }
    }
}
