//! The guest's own page tables: from a linear address to a guest-physical one,
//! as the guest's CPU does it.
//!
//! The emulator needs it for every address that an instruction names. It is a
//! function of a few registers and of the entries in memory, and nothing else.
//!
//! | file | idea |
//! |---|---|
//! | `mode` | how tables are laid out in each paging mode |
//! | `rights` | who may do what with a page |
//! | `walk` | from the root to the leaf, and the bits that a walk leaves |
//! | `code` | the same for code, where nothing is unusual |
//!
//! What is done: no paging, 32-bit paging with pages of 4 MiB beyond 4 GiB
//! (PSE-36), PAE, four and five levels; write protection, NX, SMEP, SMAP,
//! protection keys of user pages; accessed and dirty bits. What is not:
//! protection keys of supervisor pages and shadow stacks, which no guest is
//! offered.
//!
//! Whether a linear address is canonical is the business of whoever computed
//! it: that is a #GP or #SS, not a #PF.
//!
//! Source: Intel SDM volume 3, "Paging"; AMD APM volume 2, "Page Translation
//! and Protection".
mod code;
mod mode;
mod rights;
mod walk;

use waterbear_hal::{Gpa, Width};

use crate::arch::{Cr0, Cr4, Efer, Exception};
use crate::{Error, MemoryError};

pub use code::CodeWalk;
pub use walk::translate;

/// What of the guest's CPU decides a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// CR0.
    pub cr0: Cr0,
    /// CR3, as it was loaded: in PAE paging it is not looked at.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// EFLAGS.AC: the supervisor may touch user pages under SMAP.
    pub ac: bool,
    /// PKRU.
    pub pkru: u32,
    /// The page-directory-pointer registers of PAE paging. Their reserved bits
    /// were checked when they were loaded.
    pub pdptes: [u64; 4],
    /// What kind of CPU it is.
    pub cpu: Cpu,
}

/// What kinds of page tables the guest's CPU has, as its CPUID tells the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// The width of physical addresses (MAXPHYADDR), 32 to 52.
    pub physical_bits: u8,
    /// There are pages of 1 GiB.
    pub pages_1g: bool,
    /// Bit 8 is reserved in entries above level 2 that link to a table, as on
    /// AMD's CPUs.
    pub link_global_reserved: bool,
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            physical_bits: 52,
            pages_1g: true,
            link_global_reserved: false,
        }
    }
}

/// What an access does with the byte at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads it.
    Read,
    /// Writes it, or reads and writes it.
    Write,
    /// Fetches it as an instruction.
    Fetch,
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Code at privilege level 3.
    User,
    /// Code at privilege levels 0 to 2.
    Supervisor,
    /// The CPU, at any privilege level: descriptor tables and task-state
    /// segments. EFLAGS.AC does not help it against SMAP.
    Implicit,
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// On whose behalf.
    pub mode: Mode,
}

impl Access {
    /// An access by code at privilege level `cpl`.
    pub const fn at(cpl: u8, kind: Kind) -> Self {
        let mode = if cpl == 3 {
            Mode::User
        } else {
            Mode::Supervisor
        };
        Self { kind, mode }
    }

    /// An access of the CPU's own.
    pub const fn implicit(kind: Kind) -> Self {
        Self {
            kind,
            mode: Mode::Implicit,
        }
    }
}

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest-physical address of the byte.
    pub gpa: Gpa,
    /// log2 of the size, in bytes, of the page that it is in: the bits below
    /// are those of the linear address. Without paging all of the linear space
    /// is one page.
    pub page_shift: u8,
    /// A write on the same behalf is allowed too and leaves no bit to set, so
    /// it may use this translation as well.
    pub writable: bool,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The guest gets this page fault; its payload is for CR2.
    Fault(Exception),
    /// A page table of the guest's is at this address, where there is no
    /// memory.
    NoMemory(Gpa),
    /// The host could not. [`Error::Again`]: other vCPUs change the entries all
    /// the time, or the slot that they are in is on its way out; the guest
    /// should run and come back.
    Host(Error),
}

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Missing(gpa) | MemoryError::ReadOnly(gpa) => Failure::NoMemory(gpa),
            MemoryError::Host(error) => Failure::Host(error),
        }
    }
}

bitflags::bitflags! {
    /// The error code of a page fault.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct FaultCode: u32 {
        /// The page is present, so the fault is about rights or reserved bits.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was made by user code.
        const USER = 1 << 2;
        /// An entry has a reserved bit set.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch, where the CPU tells.
        const FETCH = 1 << 4;
        /// The page's protection key forbids it.
        const KEY = 1 << 5;
    }
}

/// Where the guest's page tables are.
///
/// [`GuestTables`](crate::vm::GuestTables) is the memory of a VM. One whose
/// `compare_exchange` always says [`MemoryError::ReadOnly`] gives a walk that
/// leaves no trace.
pub trait EntryMemory {
    /// Reads the entry at `gpa`, a multiple of the width, as one access.
    ///
    /// # Errors
    ///
    /// [`MemoryError`].
    fn read(&mut self, gpa: Gpa, width: Width) -> Result<u64, MemoryError>;

    /// Replaces the entry at `gpa` by `new` if it is `old`, as one atomic
    /// access, and returns what was there.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; the entry has not changed. With
    /// [`MemoryError::ReadOnly`] the walk goes on without, as the write of a
    /// CPU to a ROM is lost.
    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, MemoryError>;
}
