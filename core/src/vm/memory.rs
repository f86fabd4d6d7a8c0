//! Guest memory as bytes, for whoever acts in a vCPU's place: the emulator, the
//! walk through the guest's page tables, an interface that reads registers of a
//! guest's from its memory.
//!
//! Guest-physical addresses go through the slots to the owner's memory. All of
//! an access happens in one slot read section, so a slot that is deleted keeps
//! its meaning until the access is over (MS-3), and whoever turns the dirty log
//! on waits for the writes that did not see it. A write is logged after it was
//! made and in the slot through which it was made, as a vCPU's is (TDP-13).
//! Trackers are told after that, outside the section (PT-6, PT-7).
//!
//! Nothing here looks at what is mapped for the guest.
use core::ops::Range;

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Gpa, Hal, Hva, Width};

use super::Vm;
use crate::memslot::{Slot, SlotSet, SpaceId};
use crate::{Error, MemoryError};

/// The bits of an address that name a byte of a page.
const OFFSET: u64 = PAGE_SIZE - 1;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

/// The part of an access that is in one slot.
struct Part<'a, H: Hal> {
    slot: &'a Slot<H>,
    /// The frames.
    frames: Range<Gfn>,
    /// Where the owner has it.
    hva: Hva,
    /// Which bytes of the access it is.
    bytes: Range<usize>,
}

impl<H: Hal> Vm<H> {
    /// Reads guest memory from `gpa` on into `buf`, across pages and slots. An
    /// aligned read of 1, 2, 4 or 8 bytes is one access. May sleep; no lock
    /// held and no read section of slots.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Missing`]: nothing was read.
    /// [`MemoryError::Host`] with [`Error::Again`] while a slot is on its way
    /// out (MS-7) and [`Error::Invalid`] where the range wraps: nothing was
    /// read; with [`Error::Fault`] or [`Error::Poisoned`] as the host says:
    /// `buf` may have changed.
    pub fn read_guest(&self, space: SpaceId, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let slots = self.memslots.read();
        each_part(slots.set(space), gpa, buf.len(), Use::Read, |part| {
            let bytes = buf.get_mut(part.bytes).ok_or(Error::Invalid)?;
            Ok(self.hal.read(&self.user, part.hva, bytes)?)
        })
    }

    /// Writes `bytes` to guest memory from `gpa` on, across pages and slots,
    /// logs the pages as dirty and tells the trackers. An aligned write of 1,
    /// 2, 4 or 8 bytes is one access. May sleep; no lock held but
    /// `slots_lock`, and no read section of slots; not in a tracker's callback.
    ///
    /// # Errors
    ///
    /// As [`read_guest`](Vm::read_guest), and [`MemoryError::ReadOnly`]:
    /// nothing was written. After another error of the host's some of the bytes
    /// may have been written: the log has every page that may have changed,
    /// and the trackers were told of the slots that are done.
    pub fn write_guest(&self, space: SpaceId, gpa: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let mut done = 0;
        let result = {
            let slots = self.memslots.read();
            self.write_in(slots.set(space), gpa, bytes, &mut done)
        };
        if let Some(written @ [_, ..]) = bytes.get(..done) {
            self.tell_trackers(space, gpa, written);
        }
        result
    }

    /// Writes two pieces, those of an operand that crosses pages, or none: both
    /// are known to be writable before a byte of the first changes. Says for
    /// each whether there is memory for it; a piece without is not written.
    /// Otherwise as [`write_guest`](Vm::write_guest).
    ///
    /// # Errors
    ///
    /// [`Error::Again`] and [`Error::Invalid`] as
    /// [`write_guest`](Vm::write_guest): nothing was written. Another error of
    /// the host's: nothing was written, unless the owner takes its memory away
    /// at this very time.
    pub fn write_guest_both(
        &self,
        space: SpaceId,
        pieces: [(Gpa, &[u8]); 2],
    ) -> Result<[bool; 2], Error> {
        let mut there = [false; 2];
        {
            let slots = self.memslots.read();
            let set = slots.set(space);
            for (there, (gpa, bytes)) in there.iter_mut().zip(pieces) {
                *there = is_there(self.probe(set, gpa, bytes.len()))?;
            }
            for (there, (gpa, bytes)) in there.into_iter().zip(pieces) {
                if there {
                    is_there(self.write_in(set, gpa, bytes, &mut 0))?;
                }
            }
        }
        for (there, (gpa, bytes)) in there.into_iter().zip(pieces) {
            if there {
                self.tell_trackers(space, gpa, bytes);
            }
        }
        Ok(there)
    }

    /// Whether `len` bytes from `gpa` on could be written now: their pages are
    /// brought in, and nothing changes. Context as
    /// [`write_guest`](Vm::write_guest)'s.
    ///
    /// # Errors
    ///
    /// As [`write_guest`](Vm::write_guest).
    pub fn probe_guest(&self, space: SpaceId, gpa: Gpa, len: usize) -> Result<(), MemoryError> {
        let slots = self.memslots.read();
        self.probe(slots.set(space), gpa, len)
    }

    /// [`probe_guest`](Vm::probe_guest) in a read section.
    fn probe(&self, set: &SlotSet<H>, gpa: Gpa, len: usize) -> Result<(), MemoryError> {
        each_part(set, gpa, len, Use::Write, |part| {
            let first = part.hva.0 & !OFFSET;
            for page in 0..part.frames.end.0.saturating_sub(part.frames.start.0) {
                // An exchange of 0 for 0 changes nothing, and fails where a
                // write would.
                let hva = Hva(first.wrapping_add(page * PAGE_SIZE).max(part.hva.0));
                self.hal
                    .compare_exchange(&self.user, hva, Width::Byte, 0, 0)?;
            }
            Ok(())
        })
    }

    /// Writes in a read section and logs; `done` bytes are in slots that were
    /// written to the end.
    fn write_in(
        &self,
        set: &SlotSet<H>,
        gpa: Gpa,
        bytes: &[u8],
        done: &mut usize,
    ) -> Result<(), MemoryError> {
        each_part(set, gpa, bytes.len(), Use::Write, |part| {
            let end = part.bytes.end;
            let piece = bytes.get(part.bytes).ok_or(Error::Invalid)?;
            let written = self.hal.write(&self.user, part.hva, piece);
            mark(part.slot, part.frames);
            written?;
            *done = end;
            Ok(())
        })
    }

    /// Replaces the little-endian value of `width` at `gpa`, a multiple of it,
    /// by `new` if it is `old`, as one atomic access, and returns what was
    /// there: the exchange happened exactly when that is `old`. Bits beyond the
    /// width are ignored in `old` and `new` and 0 in the result. If it happened,
    /// the page is logged as dirty and the trackers are told. Context as
    /// [`write_guest`](Vm::write_guest)'s.
    ///
    /// # Errors
    ///
    /// As [`write_guest`](Vm::write_guest), whether or not the value is `old`,
    /// and [`Error::Invalid`] when `gpa` is no multiple of the width; nothing
    /// was written.
    pub fn compare_exchange_guest(
        &self,
        space: SpaceId,
        gpa: Gpa,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, MemoryError> {
        let size = width.bytes();
        if !gpa.0.is_multiple_of(size as u64) {
            return Err(Error::Invalid.into());
        }
        let old = old & width.mask();
        let mut seen = !old;
        {
            let slots = self.memslots.read();
            // Aligned, so it is in one page and this runs once.
            each_part(slots.set(space), gpa, size, Use::Write, |part| {
                let user = &self.user;
                seen = self.hal.compare_exchange(user, part.hva, width, old, new)?;
                if seen == old {
                    mark(part.slot, part.frames);
                }
                Ok(())
            })?;
        }
        if seen == old {
            let bytes = new.to_le_bytes();
            let bytes = bytes.get(..size).unwrap_or_default();
            self.tell_trackers(space, gpa, bytes);
        }
        Ok(seen)
    }
}

/// Whether an access found memory.
pub(crate) fn is_there(result: Result<(), MemoryError>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(MemoryError::Missing(_) | MemoryError::ReadOnly(_)) => Ok(false),
        Err(MemoryError::Host(error)) => Err(error),
    }
}

/// Logs frames of a slot as written.
fn mark<H: Hal>(slot: &Slot<H>, frames: Range<Gfn>) {
    for gfn in frames.start.0..frames.end.0 {
        slot.mark_dirty(Gfn(gfn));
    }
}

/// Runs `access` on each part of a range of `len` bytes, in order, once every
/// part is known to be there.
#[inline(always)]
fn each_part<H: Hal>(
    set: &SlotSet<H>,
    gpa: Gpa,
    len: usize,
    what: Use,
    mut access: impl FnMut(Part<'_, H>) -> Result<(), MemoryError>,
) -> Result<(), MemoryError> {
    let mut end = 0;
    while end < len {
        let next = if end == 0 {
            first(set, gpa, len, what)?
        } else {
            part(set, gpa, end, len, what)?
        };
        end = next.bytes.end;
        access(next)?;
    }
    Ok(())
}

/// The first part of an access of at least one byte, once every part is known
/// to be there.
#[inline(never)]
fn first<H: Hal>(
    set: &SlotSet<H>,
    gpa: Gpa,
    len: usize,
    what: Use,
) -> Result<Part<'_, H>, MemoryError> {
    if gpa.0.checked_add(len as u64 - 1).is_none() {
        return Err(Error::Invalid.into());
    }
    let first = part(set, gpa, 0, len, what)?;
    // Rare: the access leaves the slot. Then its other parts come first.
    let mut from = first.bytes.end;
    while from < len {
        from = part(set, gpa, from, len, what)?.bytes.end;
    }
    Ok(first)
}

/// The part that begins `from` bytes into the access of `len` bytes at `gpa`,
/// of which there are more. `gpa + len` does not wrap.
#[inline(never)]
fn part<H: Hal>(
    set: &SlotSet<H>,
    gpa: Gpa,
    from: usize,
    len: usize,
    what: Use,
) -> Result<Part<'_, H>, MemoryError> {
    let at = Gpa(gpa.0 + from as u64);
    let (gfn, offset) = (at.gfn(), at.0 & OFFSET);
    let slot = set.by_gfn(gfn).ok_or(MemoryError::Missing(at))?;
    if slot.invalid {
        // It is going, or it comes back: the next look tells (MS-7).
        return Err(Error::Again.into());
    }
    if what == Use::Write && slot.read_only() {
        return Err(MemoryError::ReadOnly(at));
    }
    let hva = slot.hva_of(gfn).ok_or(Error::Fault)?;
    // A slot has fewer than 2^32 pages.
    let room = (slot.end().0 - gfn.0) * PAGE_SIZE - offset;
    let bytes = ((len - from) as u64).min(room);
    Ok(Part {
        slot,
        frames: gfn..gfn.add((offset + bytes).div_ceil(PAGE_SIZE)),
        hva: Hva(hva.0 + offset),
        bytes: from..from + bytes as usize,
    })
}
