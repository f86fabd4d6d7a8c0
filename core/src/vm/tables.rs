//! The page tables of a guest, in its memory.
use core::ops::Range;

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gpa, Hal, Hva, Width};

use super::Vm;
use crate::memslot::{Generation, SlotsRead, SpaceId};
use crate::paging::EntryMemory;
use crate::{Error, MemoryError};

/// The page tables of a guest in an address space of a VM, for
/// [`paging::translate`](crate::paging::translate).
///
/// The entries of a walk are read in one read section of slots, which begins
/// with the first: while this lives, its owner opens no other. What it writes
/// ends the section, because the trackers are told outside of one (PT-6).
/// Context otherwise as [`Vm::write_guest`]'s.
pub struct GuestTables<'a, H: Hal> {
    vm: &'a Vm<H>,
    space: SpaceId,
    section: Option<SlotsRead<'a, H>>,
    /// The slot of the last entry: most tables are in one. It keeps its meaning
    /// as long as the section is open (MS-3).
    found: Option<Found>,
}

/// Where the owner has a slot.
struct Found {
    gpas: Range<u64>,
    hva: Hva,
}

impl Found {
    /// Where it has a byte of the slot.
    fn place(&self, gpa: Gpa) -> Hva {
        Hva(self.hva.0.wrapping_add(gpa.0.wrapping_sub(self.gpas.start)))
    }
}

impl<'a, H: Hal> GuestTables<'a, H> {
    /// The tables in an address space that a vCPU sees.
    pub fn new(vm: &'a Vm<H>, space: SpaceId) -> Self {
        Self {
            vm,
            space,
            section: None,
            found: None,
        }
    }

    /// As [`new`](GuestTables::new), and nothing that is done with it waits: its owner uses
    /// [`read_now`](GuestTables::read_now) alone. Interrupts may be off while it lives. `None`
    /// where that is not to be had.
    pub fn now(vm: &'a Vm<H>, space: SpaceId) -> Option<Self> {
        Some(Self {
            section: Some(vm.memslots().try_read()?),
            ..Self::new(vm, space)
        })
    }

    /// Where the owner has the byte at `gpa`, if there is memory.
    #[inline]
    pub fn host_place(&mut self, gpa: Gpa) -> Option<Hva> {
        self.place(gpa).ok()
    }

    /// Reads words that are there and need no wait, as
    /// [`User::read_now`](waterbear_hal::User::read_now) says.
    #[inline]
    pub fn read_now(&self, places: &[Hva], words: &mut [u64]) -> bool {
        self.vm.hal.read_now(&self.vm.user, places, words)
    }

    /// The number of the set of slots that everything here is found in.
    #[inline]
    pub fn generation(&self) -> Option<Generation> {
        let section = self.section.as_ref()?;
        Some(section.set(self.space).generation())
    }

    /// Where the owner has the byte at `gpa`.
    #[inline]
    fn place(&mut self, gpa: Gpa) -> Result<Hva, MemoryError> {
        match &self.found {
            Some(found) if found.gpas.contains(&gpa.0) => Ok(found.place(gpa)),
            _ => self.find(gpa),
        }
    }

    #[inline(never)]
    fn find(&mut self, gpa: Gpa) -> Result<Hva, MemoryError> {
        let section = self
            .section
            .get_or_insert_with(|| self.vm.memslots().read());
        let slot = section
            .set(self.space)
            .by_gfn(gpa.gfn())
            .ok_or(MemoryError::Missing(gpa))?;
        if slot.invalid {
            // It is going, or it comes back: the next look tells (MS-7).
            return Err(Error::Again.into());
        }
        // The first does not wrap, the region was checked (MS-8); nor does the
        // second but behind the last address.
        let found = self.found.insert(Found {
            gpas: slot.base.0 * PAGE_SIZE..slot.end().0.saturating_mul(PAGE_SIZE),
            hva: slot.hva,
        });
        Ok(found.place(gpa))
    }

    /// Reads the bytes from `gpa` on, which are all in its page, as
    /// [`Vm::read_guest`] does.
    ///
    /// # Errors
    ///
    /// As [`Vm::read_guest`].
    #[inline]
    pub fn read_in_page(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let hva = self.place(gpa)?;
        Ok(self.vm.hal.read(&self.vm.user, hva, buf)?)
    }
}

impl<H: Hal> EntryMemory for GuestTables<'_, H> {
    fn read(&mut self, gpa: Gpa, width: Width) -> Result<u64, MemoryError> {
        // The length is known to whoever copies: that is one instruction then.
        if width == Width::Qword {
            let mut bytes = [0; 8];
            self.read_in_page(gpa, &mut bytes)?;
            return Ok(u64::from_le_bytes(bytes));
        }
        let mut bytes = [0; 8];
        let part = bytes.get_mut(..width.bytes()).unwrap_or_default();
        self.read_in_page(gpa, part)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, MemoryError> {
        self.found = None;
        self.section = None;
        self.vm
            .compare_exchange_guest(self.space, gpa, width, old, new)
    }
}
