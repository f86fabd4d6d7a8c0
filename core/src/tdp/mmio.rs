//! Entries that say "no memory here", so that a device access goes to the
//! emulator without a look at the slots (MS-9).
use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::Mmu;
use super::cache::TableCache;
use super::flush::{DirtyLog, Op, Tlb};
use super::root::Root;
use super::table::Table;
use crate::spte::{Kind, Spte};

/// What an MMIO exit turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmioHit {
    /// The entry is of this generation of slots: there is no memory.
    Current,
    /// The entry is older, or gone: fault as for any other access.
    Stale,
}

impl<H: Hal> Mmu<H> {
    /// What stands at `gfn` after hardware faulted in the way of an MMIO
    /// entry. `generation` is that of the slots now, `None` while they change.
    pub fn mmio_hit(&self, root: &Root<H>, gfn: Gfn, generation: Option<u32>) -> MmioHit {
        let rcu = RcuGuard::new(&self.space.hal);
        let entry = self.leaf(root, &rcu, gfn);
        let current = entry.kind() == Kind::Mmio
            && generation.is_some_and(|g| self.space.format.mmio_is_current(entry.value(), g));
        if current {
            MmioHit::Current
        } else {
            MmioHit::Stale
        }
    }

    /// Puts the MMIO entry `new` at `gfn`, unless the root is stale. Best
    /// effort: without the entry the next access is only slower. Does not
    /// sleep.
    pub fn install_mmio(
        &self,
        tlb: &impl Tlb,
        root: &Root<H>,
        cache: &mut TableCache<H>,
        gfn: Gfn,
        new: Spte,
    ) {
        let _state = self.lock.read();
        if root.is_invalid() {
            return;
        }
        let rcu = RcuGuard::new(&self.space.hal);
        let mut op = Op::new(self, tlb, &(), &rcu, true);
        op.map_mmio(root.walk(&self.space, &rcu), cache, gfn, new);
        op.finish();
    }
}

impl<'r, H: Hal, T: Tlb, D: DirtyLog> Op<'r, H, T, D> {
    /// Puts the MMIO entry `new` at `gfn`, at the lowest level. A mapping that
    /// stands there is dropped first, and flushed.
    fn map_mmio(&mut self, root: Table<'r, H>, cache: &mut TableCache<H>, gfn: Gfn, new: Spte) {
        let mut entry = root.entry(gfn);
        loop {
            let step = match entry.kind() {
                Kind::Frozen => return,
                Kind::Table => match entry.child() {
                    Some(child) => Err(child.entry(gfn)),
                    None => return,
                },
                Kind::Leaf => self.replace(entry, Spte::EMPTY).and(Err(entry.reload())),
                Kind::Mmio if entry.value() == new => return,
                Kind::Empty | Kind::Mmio if entry.level() == Level::L1 => self.exchange(entry, new),
                Kind::Empty | Kind::Mmio => match cache.take() {
                    None => return,
                    Some(table) => match self.link(entry, table) {
                        Ok(child) => Err(child.entry(gfn)),
                        Err((now, table)) => {
                            cache.put(table);
                            Err(now)
                        }
                    },
                },
            };
            match step {
                Ok(()) => return,
                Err(now) => entry = now,
            }
        }
    }
}
