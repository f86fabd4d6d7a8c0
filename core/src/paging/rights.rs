//! Who may do what with a page.
//!
//! Source: Intel SDM volume 3, "Access Rights", "Protection Keys" and
//! "Page-Fault Exceptions".
use super::mode::{NO_EXECUTE, USER, WRITE};
use super::{Access, FaultCode, Kind, Mode, Registers};
use crate::arch::{Cr0, Cr4, Efer};

/// What the entries of a walk allow together.
#[derive(Clone, Copy)]
pub(super) struct Rights {
    /// The bits that every entry has.
    all: u64,
    /// The bits that some entry has.
    some: u64,
    /// The last entry.
    last: u64,
}

impl Rights {
    /// Before any entry.
    pub(super) const ALL: Rights = Rights {
        all: u64::MAX,
        some: 0,
        last: 0,
    };

    /// These rights, below one more entry.
    pub(super) fn below(self, entry: u64) -> Self {
        Self {
            all: self.all & entry,
            some: self.some | entry,
            last: entry,
        }
    }

    /// Every entry allows writes.
    fn write(self) -> bool {
        self.all & WRITE != 0
    }

    /// Every entry is for the user.
    fn user(self) -> bool {
        self.all & USER != 0
    }

    /// No entry forbids fetching.
    fn fetch(self) -> bool {
        self.some & NO_EXECUTE == 0
    }

    /// The protection key: the last entry's.
    fn key(self) -> u32 {
        (self.last >> 59) as u32 & 0xf
    }

    /// Whether the access is allowed.
    pub(super) fn allow(self, regs: &Registers, access: Access) -> bool {
        let supervisor = access.mode != Mode::User;
        let writes = match access.mode {
            Mode::User => self.write(),
            _ => self.write() || !regs.cr0.contains(Cr0::WP),
        };
        let reached = match access.mode {
            Mode::User => self.user(),
            _ if !self.user() => true,
            _ if access.kind == Kind::Fetch => !regs.cr4.contains(Cr4::SMEP),
            Mode::Supervisor if regs.ac => true,
            _ => !regs.cr4.contains(Cr4::SMAP),
        };
        reached
            && match access.kind {
                Kind::Read => true,
                Kind::Write => writes,
                Kind::Fetch => self.fetch(),
            }
            && !self.locked(regs, access, supervisor)
    }

    /// Whether the protection key forbids the access.
    fn locked(self, regs: &Registers, access: Access, supervisor: bool) -> bool {
        let keys = regs.cr4.contains(Cr4::PKE) && regs.efer.contains(Efer::LMA);
        if !keys || !self.user() || access.kind == Kind::Fetch {
            return false;
        }
        let key = regs.pkru >> (2 * self.key()) & 3;
        let (no_access, no_write) = (key & 1 != 0, key & 2 != 0);
        let writes_obey = !supervisor || regs.cr0.contains(Cr0::WP);
        no_access || no_write && writes_obey && access.kind == Kind::Write
    }

    /// The error code when the access is not allowed.
    pub(super) fn refusal(self, regs: &Registers, access: Access) -> FaultCode {
        let key = self.locked(regs, access, access.mode != Mode::User);
        FaultCode::PRESENT | flag(FaultCode::KEY, key)
    }
}

/// The part of the error code that tells of the access.
pub(super) fn code(regs: &Registers, access: Access) -> FaultCode {
    // Without any way to forbid fetching the CPU does not tell it from reading.
    let tells = regs.cr4.contains(Cr4::SMEP)
        || regs.cr4.contains(Cr4::PAE) && regs.efer.contains(Efer::NXE);
    flag(FaultCode::WRITE, access.kind == Kind::Write)
        | flag(FaultCode::USER, access.mode == Mode::User)
        | flag(FaultCode::FETCH, tells && access.kind == Kind::Fetch)
}

fn flag(flag: FaultCode, set: bool) -> FaultCode {
    if set { flag } else { FaultCode::empty() }
}
