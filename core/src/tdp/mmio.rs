//! Entries that say "no memory here", so that a device access goes to the
//! emulator without a look at the slots (MS-9).
use waterbear_hal::{Gfn, Hal, Level, RcuGuard};

use super::Mmu;
use super::cache::TableCache;
use super::flush::{Op, Sinks, Tlb};
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
        let mut op = Op::new(self, Sinks::new(tlb, &()), &rcu, true);
        op.map_mmio(root.walk(&self.space, &rcu), cache, gfn, new);
        op.finish();
    }
}

impl<'r, H: Hal> Op<'r, H> {
    /// Puts the MMIO entry `new` at `gfn`, at the lowest level. A mapping that
    /// stands there is dropped first, and flushed.
    fn map_mmio(&mut self, root: Table<'r, H>, cache: &mut TableCache<H>, gfn: Gfn, new: Spte) {
        let mut entry = root.entry(gfn);
        loop {
            if let Some(child) = entry.child() {
                entry = child.entry(gfn);
                continue;
            }
            let done = match entry.kind() {
                Kind::Frozen | Kind::Table => true,
                Kind::Leaf => {
                    if self.replace(&mut entry, Spte::EMPTY) {
                        entry = entry.reload();
                    }
                    false
                }
                _ if entry.value() == new => true,
                _ if entry.level() == Level::L1 => self.exchange(&mut entry, new),
                _ => !self.grow(&mut entry, cache),
            };
            if done {
                return;
            }
        }
    }
}
