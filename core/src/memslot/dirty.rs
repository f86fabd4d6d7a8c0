//! Which pages of a slot were written.
use waterbear_hal::Hal;
use waterbear_hal::sync::atomic::{AtomicU64, Ordering};

use crate::Error;
use crate::mem::{Box, array};

/// The frames in one word.
pub const WORD_BITS: u64 = 64;

/// One bit per frame of a slot, counted from the slot's first. Bits beyond the
/// last frame are never set.
pub struct DirtyBitmap<H: Hal> {
    npages: u64,
    words: Box<[AtomicU64], H>,
}

impl<H: Hal> DirtyBitmap<H> {
    /// Makes a bitmap for `npages` frames, with every bit set or none. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, npages: u64, set: bool) -> Result<Self, Error> {
        let len = usize::try_from(npages.div_ceil(WORD_BITS)).map_err(|_| Error::NoMemory)?;
        Ok(Self {
            npages,
            words: array(hal, len, |i| {
                AtomicU64::new(if set { present(npages, i) } else { 0 })
            })?,
        })
    }

    /// The number of frames.
    pub fn npages(&self) -> u64 {
        self.npages
    }

    /// The number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word, which no slot's bitmap is.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Sets the bit of the slot's frame number `offset`. One that is not in the
    /// slot is ignored. Any context.
    ///
    /// Always writes, even when the bit seems set: it may be cleared at the
    /// same time, and then this write must be seen by the next look.
    pub fn mark(&self, offset: u64) {
        if offset >= self.npages {
            return;
        }
        if let Some(word) = self.word(offset / WORD_BITS) {
            // Release: whoever takes the bit sees the write to the page. Pairs
            // with `take` and `clear`.
            word.fetch_or(1 << (offset % WORD_BITS), Ordering::Release);
        }
    }

    /// Whether the bit is set.
    pub fn is_marked(&self, offset: u64) -> bool {
        self.peek((offset / WORD_BITS) as usize) & (1 << (offset % WORD_BITS)) != 0
    }

    /// The word number `index`, or 0 beyond the end.
    pub fn peek(&self, index: usize) -> u64 {
        // Acquire: pairs with `mark`.
        self.words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The first word from `index` on that is not empty, or beyond the end.
    pub fn next_marked(&self, index: usize) -> usize {
        // Relaxed: whoever wants the word takes it.
        let bits = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (eights, rest) = self.words.get(index..).unwrap_or_default().as_chunks::<8>();
        // Most words of most logs are empty.
        let empty = eights
            .iter()
            .take_while(|[a, b, c, d, e, f, g, h]| {
                let first = bits(a) | bits(b) | bits(c) | bits(d);
                first | bits(e) | bits(f) | bits(g) | bits(h) == 0
            })
            .count();
        let last = eights.get(empty).map_or(rest, |eight| eight);
        let marked = last.iter().position(|word| bits(word) != 0);
        index + empty * 8 + marked.unwrap_or(last.len())
    }

    /// Takes every bit of a word: returns and clears them.
    pub fn take(&self, index: usize) -> u64 {
        // Acquire: pairs with `mark`. AcqRel because taking may be what a
        // later `mark` of the same word builds on.
        self.words
            .get(index)
            .map_or(0, |word| word.swap(0, Ordering::AcqRel))
    }

    /// Clears the bits of `mask` in a word and returns those of them that were
    /// set.
    pub fn clear(&self, index: usize, mask: u64) -> u64 {
        // As `take`.
        self.words
            .get(index)
            .map_or(0, |word| word.fetch_and(!mask, Ordering::AcqRel) & mask)
    }

    /// Sets the bits of `mask` in a word: gives back what was taken when it
    /// could not be delivered.
    pub fn put_back(&self, index: usize, mask: u64) {
        if let Some(word) = self.words.get(index) {
            // Release: pairs with `take` and `clear`.
            word.fetch_or(mask & present(self.npages, index), Ordering::Release);
        }
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(index).ok()?)
    }
}

/// The bits of word `index` that stand for one of `npages` frames.
fn present(npages: u64, index: usize) -> u64 {
    match npages.saturating_sub(index as u64 * WORD_BITS) {
        left if left >= WORD_BITS => u64::MAX,
        left => (1 << left) - 1,
    }
}

/// The numbers of the bits that are set, in rising order.
pub fn bits(word: u64) -> impl Iterator<Item = u32> {
    core::iter::successors(Some(word), |&left| Some(left & left.wrapping_sub(1)))
        .take_while(|&left| left != 0)
        .map(u64::trailing_zeros)
}
