//! Virtual-processor identifiers.
//!
//! A CPU tags what it caches of a guest's translations with the vCPU's identifier, so that it may
//! keep them over exits and beside those of other vCPUs. Identifier 0 is the host's and is never
//! given out. A vCPU that gets none runs without, and the CPU forgets its translations at every
//! entry and exit.
//!
//! # Why nothing but INVEPT is needed
//!
//! With EPT on, what a CPU caches for a guest is of two kinds: guest-physical translations, tagged
//! with the EPT root, and combined ones, tagged with the EPT root and the identifier. An INVEPT of
//! one root removes all of the first and all of the second, whatever the identifier, on its CPU.
//! Linear translations, tagged with the identifier alone, arise only without EPT.
//!
//! So a translation is used only by the vCPU with its identifier and below its root, and
//! - a vCPU that enters on another CPU than last time, or below another root, or for the first
//!   time, begins with an INVEPT of its root: nothing that was left there by an earlier owner of
//!   the identifier or of the root, nor by the vCPU itself before it flushed its translations
//!   elsewhere, is used;
//! - from then on it runs on that CPU only, where its own INVLPG and MOV to CR3 work on its
//!   identifier and root, and where the core has every change of the EPT tables followed by
//!   [`flush_tlb`](waterbear_core::vendor::Vendor::flush_tlb);
//! - other vCPUs that run on the CPU in between have other identifiers;
//! - a CPU on which VMX operation was off begins without any (INVEPT of all roots).
//!
//! Source: Intel SDM volume 3, "Caching Translation Information" and "Invalidating Cached
//! Translation Information".
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_hal::Hal;

use crate::pages::Page;

/// Which identifiers are in use: a bit for each, as many as a page has.
pub struct Vpids<H: Hal>(Page<H>);

impl<H: Hal> Vpids<H> {
    /// None is in use. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        // Identifier 0 is taken for good.
        Ok(Self(Page::new(hal, 1)?))
    }

    /// Takes an identifier, if one is left.
    pub fn take(&self) -> Option<NonZeroU16> {
        take(self.0.words())
    }

    /// Gives an identifier back.
    pub fn give_back(&self, vpid: NonZeroU16) {
        give_back(self.0.words(), vpid);
    }
}

/// Sets a bit that is clear, and says which.
fn take(words: &[AtomicU64]) -> Option<NonZeroU16> {
    for (number, word) in words.iter().enumerate() {
        loop {
            let taken = word.load(Ordering::Relaxed);
            let bit = taken.trailing_ones();
            if bit == 64 {
                break;
            }
            // Relaxed: what was cached for the last owner is dealt with at the first entry.
            let more = taken | 1 << bit;
            if word
                .compare_exchange(taken, more, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return NonZeroU16::new((number * 64) as u16 | bit as u16);
            }
        }
    }
    None
}

/// Clears a bit.
fn give_back(words: &[AtomicU64], vpid: NonZeroU16) {
    let number = vpid.get();
    if let Some(word) = words.get(usize::from(number / 64)) {
        word.fetch_and(!(1 << (number % 64)), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_identifier_has_one_owner_until_it_is_given_back() {
        let words = [AtomicU64::new(1), AtomicU64::new(0)];
        for number in 1..128 {
            assert_eq!(take(&words).map(NonZeroU16::get), Some(number));
        }
        assert_eq!(take(&words), None);
        let one = NonZeroU16::new(77).unwrap();
        give_back(&words, one);
        assert_eq!(take(&words), Some(one));
        assert_eq!(take(&words), None);
    }
}
