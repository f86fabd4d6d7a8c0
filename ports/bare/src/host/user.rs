//! "User" memory: memory of the kernel's own, at its own address. It is there
//! for good, so there is nothing to notify anybody of.
//!
//! Guests use the same bytes on other CPUs, so no Rust access may touch them
//! that the compiler takes for its own: copies are one instruction each.
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};
use waterbear_hal::{BellError, HostPage, Hva, Level, NoBell, Pfn, ResolveError, User, Width};

use super::Bare;
use crate::boot::MAPPED;

impl User for Bare {
    const HAS_NOTIFIER: bool = true;

    type Space = ();

    fn resolve(&self, _space: &(), hva: Hva, _write: bool) -> Result<HostPage, ResolveError> {
        if hva.0 >= MAPPED {
            return Err(ResolveError::Fault);
        }
        Ok(HostPage {
            pfn: Pfn(hva.0 >> PAGE_SHIFT),
            writable: true,
            uncached: false,
            level: Level::L3,
        })
    }

    fn resolve_now(&self, space: &(), hva: Hva, write: bool) -> Option<HostPage> {
        self.resolve(space, hva, write).ok()
    }

    fn release(&self, _pfn: Pfn, _dirty: bool) {}

    fn read(&self, _space: &(), hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError> {
        let from = at(hva, buf.len())?;
        // SAFETY: `buf` is ours and as long; `at` says that the rest is memory.
        unsafe { copy(buf.as_mut_ptr(), from, buf.len()) };
        Ok(())
    }

    fn read_now(&self, space: &(), places: &[Hva], words: &mut [u64]) -> bool {
        places.iter().zip(words).all(|(&hva, word)| {
            let mut bytes = [0; 8];
            let there = self.read(space, hva, &mut bytes).is_ok();
            *word = u64::from_le_bytes(bytes);
            there
        })
    }

    fn write(&self, _space: &(), hva: Hva, bytes: &[u8]) -> Result<(), ResolveError> {
        let to = at(hva, bytes.len())?;
        // SAFETY: as in `read`, and what is at `to` is the guest's: the machine
        // gives a VM no other memory.
        unsafe { copy(to, bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn compare_exchange(
        &self,
        _space: &(),
        hva: Hva,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, ResolveError> {
        let place = at(hva, width.bytes())?;
        if !place.addr().is_multiple_of(width.bytes()) {
            return Err(ResolveError::Fault);
        }
        macro_rules! exchange {
            ($atomic:ty, $value:ty) => {{
                // SAFETY: aligned, as was just seen, and memory of the guest's,
                // which everybody accesses with single instructions.
                let place = unsafe { <$atomic>::from_ptr(place.cast()) };
                let (old, new) = (old as $value, new as $value);
                match place.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(seen) | Err(seen) => u64::from(seen),
                }
            }};
        }
        Ok(match width {
            Width::Byte => exchange!(AtomicU8, u8),
            Width::Word => exchange!(AtomicU16, u16),
            Width::Dword => exchange!(AtomicU32, u32),
            Width::Qword => exchange!(AtomicU64, u64),
        })
    }

    /// Nobody has descriptors here.
    const HAS_BELLS: bool = false;

    type Bell = NoBell;

    fn bell(&self, _descriptor: i32) -> Result<NoBell, BellError> {
        Err(BellError::NoDescriptor)
    }
}

/// Where `len` bytes from `hva` on are, if all of them are mapped. Nobody has
/// anything in the first page.
fn at(hva: Hva, len: usize) -> Result<*mut u8, ResolveError> {
    let end = hva.0.checked_add(len as u64);
    if hva.0 < PAGE_SIZE || end.is_none_or(|end| end > MAPPED) {
        return Err(ResolveError::Fault);
    }
    Ok(core::ptr::with_exposed_provenance_mut(hva.0 as usize))
}

/// Copies bytes that others may use at the same time. An aligned 1, 2, 4 or 8
/// are one access on either side.
///
/// # Safety
///
/// Both ranges are mapped, `to` for writing, and nobody but a guest relies on
/// what is at `to`.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    macro_rules! move_one {
        ($width:literal, $class:ident) => {{
            // SAFETY: as the caller promises.
            unsafe {
                asm!(
                    concat!("mov {0", $width, "}, [{1}]"),
                    concat!("mov [{2}], {0", $width, "}"),
                    out($class) _, in(reg) from, in(reg) to,
                    options(nostack, preserves_flags),
                );
            }
        }};
    }
    match len {
        1 => move_one!("", reg_byte),
        2 => move_one!(":x", reg),
        4 => move_one!(":e", reg),
        8 => move_one!(":r", reg),
        _ => {
            // SAFETY: as the caller promises; the direction flag is clear.
            unsafe {
                asm!(
                    "rep movsb",
                    inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}
