//! From the root to the leaf, and the bits that a walk leaves.
use waterbear_hal::{Gpa, Width};

use super::mode::{ACCESSED, DIRTY, Layout, PRESENT};
use super::rights::{self, Rights};
use super::{Access, EntryMemory, Failure, FaultCode, Kind, Registers, Translation};
use crate::arch::Exception;
use crate::{Error, MemoryError};

/// How often a walk begins anew because an entry changed under it. A vCPU that
/// changes one all the time must not keep another's thread in the kernel.
const ATTEMPTS: u32 = 64;

/// An entry that a walk uses.
#[derive(Clone, Copy, Default)]
struct Used {
    at: Gpa,
    entry: u64,
    /// The accessed and dirty bits that it is to have.
    marks: u64,
}

/// Translates a linear address for an access, and sets the accessed and dirty
/// bits of the entries that it uses. Where linear addresses have 32 bits, the
/// others of `linear` are ignored. Allocates nothing; may do what `mem` does.
///
/// An access that crosses into another page is two translations.
///
/// # Errors
///
/// [`Failure`]. A page fault leaves the entries as they were.
pub fn translate(
    regs: &Registers,
    mem: &mut impl EntryMemory,
    linear: u64,
    access: Access,
) -> Result<Translation, Failure> {
    let Some(layout) = Layout::of(regs) else {
        return Ok(Translation {
            gpa: Gpa(linear & u64::from(u32::MAX)),
            page_shift: 32,
            writable: true,
        });
    };
    let walk = Walk {
        regs,
        linear: layout.linear(linear),
        access,
        layout,
    };
    for _ in 0..ATTEMPTS {
        let why = match walk.attempt(mem) {
            Ok(translation) => return Ok(translation),
            Err(Miss::Changed) => continue,
            Err(Miss::Memory(error)) => return Err(error.into()),
            Err(Miss::Fault(why)) => why,
        };
        let code = why | rights::code(regs, access);
        let fault = Exception::page_fault(walk.linear, code.bits());
        return Err(Failure::Fault(fault));
    }
    Err(Failure::Host(Error::Again))
}

/// Why a walk leads nowhere.
enum Miss {
    /// An entry changed before it was marked.
    Changed,
    /// The guest gets a page fault for this.
    Fault(FaultCode),
    Memory(MemoryError),
}

/// What a walk is for.
struct Walk<'a> {
    regs: &'a Registers,
    layout: Layout,
    linear: u64,
    access: Access,
}

impl Walk<'_> {
    /// One walk.
    fn attempt(&self, mem: &mut impl EntryMemory) -> Result<Translation, Miss> {
        let Self { regs, layout, .. } = self;
        let (linear, access, width) = (self.linear, self.access, layout.width);
        let Some(mut table) = layout.root(regs, linear) else {
            return Err(Miss::Fault(FaultCode::empty()));
        };
        let mut used = [Used::default(); 5];
        let mut places = used.iter_mut();
        let mut rights = Rights::ALL;
        let mut level = layout.top;
        // Most entries have been used before: then there is nothing to set.
        let mut missing = 0;
        let leaf = loop {
            let at = layout.entry(table, level, linear);
            let entry = mem.read(at, width).map_err(Miss::Memory)?;
            if entry & PRESENT == 0 {
                return Err(Miss::Fault(FaultCode::empty()));
            }
            let leaf = layout.is_leaf(level, entry);
            if entry & layout.reserved(level, leaf) != 0 {
                return Err(Miss::Fault(FaultCode::PRESENT | FaultCode::RESERVED));
            }
            rights = rights.below(entry);
            let dirty = leaf && access.kind == Kind::Write;
            let marks = ACCESSED | if dirty { DIRTY } else { 0 };
            missing |= marks & !entry;
            if let Some(place) = places.next() {
                *place = Used { at, entry, marks };
            }
            if leaf {
                break entry;
            }
            table = layout.table(entry);
            level = level.saturating_sub(1);
        };
        if !rights.allow(regs, access) {
            return Err(Miss::Fault(rights.refusal(regs, access)));
        }
        if missing != 0 {
            for used in used.iter().filter(|used| used.entry & PRESENT != 0) {
                set_marks(mem, width, used)?;
            }
        }
        let write = Access {
            kind: Kind::Write,
            ..access
        };
        Ok(Translation {
            gpa: layout.byte(level, leaf, linear),
            page_shift: layout.shift(level) as u8,
            writable: access.kind == Kind::Write || leaf & DIRTY != 0 && rights.allow(regs, write),
        })
    }
}

/// Sets the bits that an entry is to have.
fn set_marks(mem: &mut impl EntryMemory, width: Width, used: &Used) -> Result<(), Miss> {
    let &Used { at, entry, marks } = used;
    if entry & marks == marks {
        return Ok(());
    }
    match mem.compare_exchange(at, width, entry, entry | marks) {
        Ok(seen) if seen != entry => Err(Miss::Changed),
        // In a ROM a CPU's write would be lost, and the access goes on.
        Ok(_) | Err(MemoryError::ReadOnly(_)) => Ok(()),
        Err(error) => Err(Miss::Memory(error)),
    }
}
