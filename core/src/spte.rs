//! Second-level page-table entries: the bits.
//!
//! EPT and NPT differ only in where their bits are, so the format is data: an
//! [`EntryFormat`], made by a vendor crate when it registers and constant from
//! then on. An entry is a value, [`Spte`]; where it stands in a table is a
//! location (see [`crate::tdp`]).
//!
//! # Layout
//!
//! Hardware's bits come from the format. Both formats leave these to software:
//!
//! | bit | name | meaning |
//! |---|---|---|
//! | 11 | [`PRESENT`] | a leaf or a link to a table, although hardware may see it as not present (access tracking) |
//! | 54 | [`SAVED_READ`] | read permission put aside by access tracking |
//! | 56 | [`SAVED_EXEC`] | execute permission put aside by access tracking |
//! | 57 | [`HOST_WRITABLE`] | the host lets us write to the page |
//! | 58 | [`MMU_WRITABLE`] | the lockless fast path may set W |
//! | 62 | [`FROZEN`] | alone: the entry is being removed |
//!
//! # Invariants
//!
//! - W implies `MMU_WRITABLE`, which implies `HOST_WRITABLE` (TDP-11).
//! - `PRESENT` is clear in an empty, a frozen and an MMIO entry, and hardware
//!   sees none of them as a mapping.
//! - An MMIO entry carries the low bits of a memory-slot generation in bits 12
//!   to 31 (MS-9).
use waterbear_hal::{Gfn, Level, Pfn};

use crate::memslot::MMIO_GENERATION_BITS;

/// A leaf or a link to a table.
pub const PRESENT: u64 = 1 << 11;
/// Read permission put aside by access tracking.
pub const SAVED_READ: u64 = 1 << 54;
/// Execute permission put aside by access tracking.
pub const SAVED_EXEC: u64 = 1 << 56;
/// The host lets us write to the page.
pub const HOST_WRITABLE: u64 = 1 << 57;
/// The lockless fast path may set W.
pub const MMU_WRITABLE: u64 = 1 << 58;
/// The whole value of an entry that is being removed.
pub const FROZEN: u64 = 1 << 62;

/// The bits that belong to software in every format.
const SOFTWARE: u64 = PRESENT | SAVED_READ | SAVED_EXEC | HOST_WRITABLE | MMU_WRITABLE | FROZEN;

const MMIO_GENERATION_SHIFT: u32 = 12;
const MMIO_GENERATION_MASK: u64 = ((1 << MMIO_GENERATION_BITS) - 1) << MMIO_GENERATION_SHIFT;

/// The value of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Spte(u64);

impl core::fmt::Debug for Spte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Spte({:#x})", self.0)
    }
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing: hardware faults and a fault may install something.
    Empty,
    /// Known not to be memory: hardware faults in a way of its own, and the
    /// exit goes to the emulator without a look at the slots.
    Mmio,
    /// Being removed: nobody but the remover writes it.
    Frozen,
    /// Maps guest memory.
    Leaf,
    /// Links to a table one level below.
    Table,
}

impl Spte {
    /// Maps nothing.
    pub const EMPTY: Spte = Spte(0);
    /// Is being removed.
    pub const FROZEN: Spte = Spte(FROZEN);

    /// The bits as they stand in memory.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// An entry that was read from a table.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Spte(bits)
    }

    /// What both values have.
    pub(crate) const fn and(self, other: Self) -> Self {
        Spte(self.0 & other.0)
    }

    /// Whether it is a leaf or a link.
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether the lockless fast path may set W.
    pub const fn is_mmu_writable(self) -> bool {
        self.0 & MMU_WRITABLE != 0
    }

    /// Whether the host lets us write to the page.
    pub const fn is_host_writable(self) -> bool {
        self.0 & HOST_WRITABLE != 0
    }
}

/// Where hardware's bits are. See [`EntryFormat::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormatBits {
    /// The level of the root table: 4 or 5 (fewer under the model checker).
    pub root_level: Level,
    /// The largest level at which a leaf may stand.
    pub max_leaf: Level,
    /// Readable; in formats with a present bit, that bit.
    pub read: u64,
    /// Writable.
    pub write: u64,
    /// Executable, in formats that say so.
    pub exec: u64,
    /// Not executable, in formats that say so.
    pub no_exec: u64,
    /// Set in every present entry, links included.
    pub always: u64,
    /// Marks a leaf above the lowest level.
    pub large: u64,
    /// Set in every leaf of what the host caches: the memory type. Without
    /// these bits the type is "uncacheable", or the CPU finds it elsewhere.
    pub memory_type: u64,
    /// Hardware sets it on access; 0 where it does not.
    pub accessed: u64,
    /// Hardware sets it on write; 0 where it does not.
    pub dirty: u64,
    /// The bits of the physical address.
    pub address: u64,
    /// Bits that make hardware fault in the way that is kept for MMIO, or
    /// `None` where this CPU has no such bits (TDP-15).
    pub mmio: Option<u64>,
}

/// Where the bits of an entry are, checked.
///
/// # Invariants
///
/// No two of hardware's masks overlap, none contains a software bit, and an
/// MMIO value can be told from every other kind of entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryFormat {
    bits: FormatBits,
    /// Clearing one of these calls for a flush.
    revocable: u64,
}

/// What a leaf is to allow. See [`EntryFormat::leaf`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafRights {
    /// The guest may write now.
    pub write: bool,
    /// The lockless fast path may let the guest write later.
    pub mmu_writable: bool,
    /// The host lets us write to the page.
    pub host_writable: bool,
    /// The access that is being served is a write, so the page counts as
    /// dirty at once.
    pub dirty: bool,
    /// The page is reached past the caches.
    pub uncached: bool,
}

impl EntryFormat {
    /// Checks the masks.
    ///
    /// # Errors
    ///
    /// Says which masks contradict each other.
    pub const fn new(bits: FormatBits) -> Result<Self, &'static str> {
        let b = &bits;
        let masks = [
            b.read,
            b.write,
            b.exec,
            b.no_exec,
            b.always,
            b.large,
            b.memory_type,
            b.accessed,
            b.dirty,
            b.address,
            SOFTWARE,
        ];
        let mut i = 0;
        let mut seen = 0;
        while i < masks.len() {
            if seen & masks[i] != 0 {
                return Err("two masks of the entry format overlap");
            }
            seen |= masks[i];
            i += 1;
        }
        if b.read == 0 || b.write == 0 || b.large == 0 || b.address == 0 {
            return Err("the entry format lacks a mask");
        }
        if (b.accessed == 0) != (b.dirty == 0) {
            return Err("accessed and dirty bits come together");
        }
        if let Some(mmio) = b.mmio
            && (mmio == 0 || mmio & (SOFTWARE | MMIO_GENERATION_MASK) != 0)
        {
            return Err("an MMIO entry cannot be told from other entries");
        }
        Ok(Self {
            revocable: b.read | b.write | b.exec | b.dirty,
            bits,
        })
    }

    /// The level of root tables.
    pub const fn root_level(&self) -> Level {
        self.bits.root_level
    }

    /// The largest level at which a leaf may stand.
    pub const fn max_leaf(&self) -> Level {
        self.bits.max_leaf
    }

    /// One more than the last frame that a root table reaches.
    pub const fn end(&self) -> Gfn {
        Gfn(self.bits.root_level.pages() << waterbear_hal::memory::ENTRY_BITS)
    }

    /// Whether hardware keeps accessed and dirty bits.
    pub const fn has_accessed_dirty(&self) -> bool {
        self.bits.accessed != 0
    }

    /// What `spte`, read from a table at `level`, is.
    #[inline]
    pub const fn kind(&self, spte: Spte, level: Level) -> Kind {
        if spte.is_present() {
            if level as u8 == Level::L1 as u8 || spte.0 & self.bits.large != 0 {
                Kind::Leaf
            } else {
                Kind::Table
            }
        } else if spte.0 == 0 {
            Kind::Empty
        } else if spte.0 == FROZEN {
            Kind::Frozen
        } else {
            Kind::Mmio
        }
    }

    /// A leaf at `level` for the frames that start at `pfn`.
    ///
    /// Accessed from the start, because it is made for an access.
    pub const fn leaf(&self, pfn: Pfn, level: Level, rights: LeafRights) -> Spte {
        let b = &self.bits;
        let mut bits =
            PRESENT | b.read | b.exec | b.always | b.accessed | (pfn.hpa().0 & b.address);
        if !rights.uncached {
            bits |= b.memory_type;
        }
        if level as u8 > Level::L1 as u8 {
            bits |= b.large;
        }
        if rights.host_writable {
            bits |= HOST_WRITABLE;
            if rights.mmu_writable {
                bits |= MMU_WRITABLE;
                if rights.write {
                    bits |= b.write;
                    if rights.dirty {
                        bits |= b.dirty;
                    }
                }
            }
        }
        Spte(bits)
    }

    /// A link to the table in frame `pfn`. Links allow everything; leaves
    /// decide.
    pub(crate) const fn link(&self, pfn: Pfn) -> Spte {
        let b = &self.bits;
        Spte(
            PRESENT | b.read | b.write | b.exec | b.always | b.accessed | (pfn.hpa().0 & b.address),
        )
    }

    /// An entry that says "no memory here" as of `generation`, or `None` where
    /// this CPU cannot tell such an entry from a missing one.
    pub const fn mmio(&self, generation: u32) -> Option<Spte> {
        match self.bits.mmio {
            Some(bits) => Some(Spte(
                bits | (((generation as u64) << MMIO_GENERATION_SHIFT) & MMIO_GENERATION_MASK),
            )),
            None => None,
        }
    }

    /// Whether the MMIO entry `spte` was made at `generation`.
    pub const fn mmio_is_current(&self, spte: Spte, generation: u32) -> bool {
        match self.mmio(generation) {
            Some(current) => current.0 == spte.0,
            None => false,
        }
    }

    /// The frame that a leaf maps or a link points to.
    #[inline]
    pub const fn pfn(&self, spte: Spte) -> Pfn {
        waterbear_hal::Pfn((spte.0 & self.bits.address) >> waterbear_hal::addr::PAGE_SHIFT)
    }

    /// Whether the guest may write through `spte` now.
    #[inline]
    pub const fn is_writable(&self, spte: Spte) -> bool {
        spte.0 & self.bits.write != 0
    }

    /// Whether hardware marked the leaf dirty.
    #[inline]
    pub const fn is_dirty(&self, spte: Spte) -> bool {
        spte.0 & self.bits.dirty != 0
    }

    /// Whether the leaf was used since its age was last cleared.
    pub const fn is_young(&self, spte: Spte) -> bool {
        if self.has_accessed_dirty() {
            spte.0 & self.bits.accessed != 0
        } else {
            !self.is_access_tracked(spte)
        }
    }

    /// Whether the leaf's permissions were put aside, so that the next access
    /// faults and shows that the page is in use.
    pub const fn is_access_tracked(&self, spte: Spte) -> bool {
        spte.is_present() && spte.0 & self.bits.read == 0
    }

    /// The leaf without its age: accessed bit clear, or permissions put aside
    /// where hardware keeps no such bit. W is not put aside: `MMU_WRITABLE`
    /// says whether it may come back.
    pub const fn aged(&self, spte: Spte) -> Spte {
        let b = &self.bits;
        if self.has_accessed_dirty() {
            return Spte(spte.0 & !b.accessed);
        }
        if self.is_access_tracked(spte) {
            return spte;
        }
        let mut saved = SAVED_READ;
        if spte.0 & b.exec != 0 {
            saved |= SAVED_EXEC;
        }
        Spte((spte.0 & !(b.read | b.write | b.exec)) | saved)
    }

    /// The leaf with the permissions back that access tracking put aside.
    pub const fn rejuvenated(&self, spte: Spte) -> Spte {
        let b = &self.bits;
        if !self.is_access_tracked(spte) {
            return Spte(spte.0 | b.accessed);
        }
        let mut bits = spte.0 & !(SAVED_READ | SAVED_EXEC);
        if spte.0 & SAVED_READ != 0 {
            bits |= b.read;
        }
        if spte.0 & SAVED_EXEC != 0 {
            bits |= b.exec;
        }
        Spte(bits)
    }

    /// The leaf without W; the fast path may give it back.
    pub const fn write_protected(&self, spte: Spte) -> Spte {
        Spte(spte.0 & !self.bits.write)
    }

    /// The leaf without W, which only a fault under `mmu_lock` may give back.
    pub const fn write_tracked(&self, spte: Spte) -> Spte {
        Spte(spte.0 & !(self.bits.write | MMU_WRITABLE))
    }

    /// The leaf with W and, since a write is being served, dirty.
    pub const fn made_writable(&self, spte: Spte) -> Spte {
        Spte(spte.0 | self.bits.write | self.bits.dirty)
    }

    /// The leaf with its dirty bit clear.
    pub const fn cleaned(&self, spte: Spte) -> Spte {
        Spte(spte.0 & !self.bits.dirty)
    }

    /// The leaf for part `index` of what `spte` maps at `level`, one level
    /// below, with the same rights.
    pub const fn part(&self, spte: Spte, level: Level, index: usize) -> Option<Spte> {
        let Some(below) = level.below() else {
            return None;
        };
        let pfn = self.pfn(spte).add(index as u64 * below.pages());
        let mut bits = (spte.0 & !self.bits.address) | (pfn.hpa().0 & self.bits.address);
        if below as u8 == Level::L1 as u8 {
            bits &= !self.bits.large;
        }
        Some(Spte(bits))
    }

    /// Whether replacing leaf `old` by leaf `new` of the same page takes
    /// something away that a TLB may still allow: W, a permission put aside,
    /// or a dirty bit that hardware would not set again (TDP-10).
    #[inline]
    pub const fn needs_flush(&self, old: Spte, new: Spte) -> bool {
        old.0 & !new.0 & self.revocable != 0 || new.0 & !old.0 & self.bits.no_exec != 0
    }

    /// Whether `spte` allows an access.
    #[inline]
    pub const fn allows(&self, spte: Spte, write: bool, exec: bool) -> bool {
        let b = &self.bits;
        spte.is_present()
            && spte.0 & b.read != 0
            && (!write || spte.0 & b.write != 0)
            && (!exec || ((b.exec == 0 || spte.0 & b.exec != 0) && spte.0 & b.no_exec == 0))
    }
}
