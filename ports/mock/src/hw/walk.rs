//! The page walker.

use waterbear_hal::memory::ENTRY_BITS;
use waterbear_hal::{Gpa, Level, Pfn};

use super::{Access, Decoded, EntryMemory, Format};

/// A CPU's page walker.
#[derive(Clone, Copy, Debug)]
pub struct Walker {
    /// What entries look like.
    pub format: Format,
    /// The level of the root table.
    pub root_level: Level,
    /// The width of physical addresses, in bits.
    pub maxphyaddr: u32,
}

/// Where a guest-physical address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The frame of the 4 KiB page that was asked for.
    pub pfn: Pfn,
    /// The level of the mapping.
    pub level: Level,
    /// What all entries on the way allow together.
    pub allows: Access,
    /// Whether the dirty bit is set now, or there is none.
    pub dirty: bool,
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Nothing is mapped.
    NotPresent,
    /// Something is mapped, but the access is not allowed.
    Denied,
    /// An entry breaks a rule of the format.
    Broken,
}

/// A walk that ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Why.
    pub kind: FaultKind,
    /// The level of the table whose entry ended the walk.
    pub level: Level,
    /// That entry.
    pub entry: u64,
    /// What the entries that were seen allow together; nothing when the last
    /// was not present.
    pub allows: Access,
    /// The access.
    pub wanted: Access,
}

impl Fault {
    /// The exit qualification of an EPT violation, or `None` when this is a
    /// misconfiguration, which has none. As in SDM, "Exit Qualification for EPT
    /// Violations", for an access to a final address whose linear address is
    /// valid.
    pub fn ept_qualification(&self) -> Option<u64> {
        let rights =
            |a: Access| u64::from(a.read) | u64::from(a.write) << 1 | u64::from(a.exec) << 2;
        match self.kind {
            FaultKind::Broken => None,
            _ => Some(rights(self.wanted) | rights(self.allows) << 3 | 0b11 << 7),
        }
    }

    /// The error code of a nested page fault, for an access to a final
    /// address. As in APM, "Nested Page Faults": a user access, always.
    pub fn npf_error_code(&self) -> u64 {
        u64::from(self.kind != FaultKind::NotPresent)
            | u64::from(self.wanted.write) << 1
            | 1 << 2
            | u64::from(self.kind == FaultKind::Broken) << 3
            | u64::from(self.wanted.exec) << 4
            | 1 << 32
    }
}

/// Where a walk begins: at the root, or at a table that was cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The table.
    pub table: Pfn,
    /// Its level.
    pub level: Level,
    /// What the links above it allow together.
    pub allows: Access,
}

impl Walker {
    /// A walker on a CPU with 46 bits of physical address.
    pub fn new(format: Format, root_level: Level) -> Self {
        Self {
            format,
            root_level,
            maxphyaddr: 46,
        }
    }

    /// The walk's usual start.
    pub fn root(&self, root: Pfn) -> Start {
        Start {
            table: root,
            level: self.root_level,
            allows: Access::ALL,
        }
    }

    /// Translates `gpa` for an access, from the root table on. Sets accessed
    /// bits, and the dirty bit for a write.
    ///
    /// # Errors
    ///
    /// A [`Fault`], as hardware would report it.
    #[track_caller]
    pub fn translate(
        &self,
        memory: &impl EntryMemory,
        root: Pfn,
        gpa: Gpa,
        wanted: Access,
    ) -> Result<Translation, Fault> {
        self.walk(memory, self.root(root), gpa, wanted, &mut |_| ())
    }

    /// As [`translate`](Self::translate), from any table on, and reports each
    /// table that it enters.
    ///
    /// # Errors
    ///
    /// A [`Fault`], as hardware would report it.
    #[track_caller]
    pub fn walk(
        &self,
        memory: &impl EntryMemory,
        start: Start,
        gpa: Gpa,
        wanted: Access,
        entered: &mut dyn FnMut(Start),
    ) -> Result<Translation, Fault> {
        let beyond = self.root_level.gfn_shift() + ENTRY_BITS;
        if gpa.gfn().0 >> beyond != 0 {
            return Err(Fault {
                kind: FaultKind::NotPresent,
                level: self.root_level,
                entry: 0,
                allows: Access::NONE,
                wanted,
            });
        }
        // An entry that changes under the walker sends it back to the start.
        loop {
            if let Some(result) = self.try_walk(memory, start, gpa, wanted, entered) {
                return result;
            }
        }
    }

    #[track_caller]
    fn try_walk(
        &self,
        memory: &impl EntryMemory,
        start: Start,
        gpa: Gpa,
        wanted: Access,
        entered: &mut dyn FnMut(Start),
    ) -> Option<Result<Translation, Fault>> {
        let Start {
            mut table,
            mut level,
            mut allows,
        } = start;
        loop {
            let index = gpa.gfn().index(level);
            let entry = memory.read_entry(table, index);
            let fault = |kind, allows| {
                Some(Err(Fault {
                    kind,
                    level,
                    entry,
                    allows,
                    wanted,
                }))
            };
            match self.format.decode(entry, level, self.maxphyaddr) {
                Decoded::NotPresent => return fault(FaultKind::NotPresent, Access::NONE),
                Decoded::Broken => return fault(FaultKind::Broken, Access::NONE),
                Decoded::Table { pfn, allows: here } => {
                    let accessed = entry | self.format.accessed();
                    if !set(memory, table, index, entry, accessed) {
                        return None;
                    }
                    allows = allows.and(here);
                    table = pfn;
                    level = level.below()?;
                    entered(Start {
                        table,
                        level,
                        allows,
                    });
                }
                Decoded::Leaf {
                    pfn,
                    allows: here,
                    dirty,
                } => {
                    allows = allows.and(here);
                    if !allows.allows(wanted) {
                        return fault(FaultKind::Denied, allows);
                    }
                    let mut new = entry | self.format.accessed();
                    if wanted.write {
                        new |= self.format.dirty();
                    }
                    if !set(memory, table, index, entry, new) {
                        return None;
                    }
                    let offset = gpa.gfn().0 & (level.pages() - 1);
                    return Some(Ok(Translation {
                        pfn: pfn.add(offset),
                        level,
                        allows,
                        dirty: dirty || wanted.write,
                    }));
                }
            }
        }
    }
}

/// Makes an entry what it should be, if it is not.
fn set(memory: &impl EntryMemory, table: Pfn, index: usize, old: u64, new: u64) -> bool {
    old == new || memory.update_entry(table, index, old, new)
}
