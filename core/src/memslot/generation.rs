//! The number of a set, and what an MMIO entry keeps of it.
use super::slot::{ADDRESS_SPACES, SpaceId};

/// How many bits of the generation an MMIO entry has room for.
pub const MMIO_GENERATION_BITS: u32 = 20;

const MMIO_MASK: u64 = (1 << MMIO_GENERATION_BITS) - 1;
const IN_PROGRESS: u64 = 1 << 63;
const STEP: u64 = ADDRESS_SPACES as u64;
/// Sets of a new VM begin a few updates before the MMIO part wraps, so that
/// every VM wraps once, early, when there is little to zap: wrapping is not a
/// path that nobody has seen.
const FIRST: u64 = MMIO_MASK + 1 - 64 * STEP;

const _: () = assert!(ADDRESS_SPACES.is_power_of_two());

/// The number of a set.
///
/// It changes with every publish and differs between address spaces: it counts
/// in steps of their number. Bit 63 says that an update is in progress (MS-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generation(pub(super) u64);

impl Generation {
    /// The generation of an address space's first set.
    pub(super) fn first(space: SpaceId) -> Self {
        Self(FIRST + space.index() as u64)
    }

    /// The generation of the next publish, marked "in progress".
    pub(super) fn next(self) -> Self {
        // 62 bits of updates do not run out.
        Self((self.settled().0 + STEP) | IN_PROGRESS)
    }

    /// Without the mark.
    pub(super) fn settled(self) -> Self {
        Self(self.0 & !IN_PROGRESS)
    }

    /// Whether an update is in progress.
    pub fn in_progress(self) -> bool {
        self.0 & IN_PROGRESS != 0
    }

    /// The number, with the mark in bit 63.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// What an MMIO entry keeps of it, in [`MMIO_GENERATION_BITS`] bits, or
    /// `None` while an update is in progress: then nothing is cached and
    /// nothing cached is believed (MS-9).
    pub fn mmio(self) -> Option<u32> {
        (!self.in_progress()).then_some((self.0 & MMIO_MASK) as u32)
    }

    /// Whether [`mmio`](Generation::mmio) began again at its smallest value on
    /// the way from `before` to here, so that an old entry could look new.
    pub(super) fn wrapped_since(self, before: Self) -> bool {
        self.settled().0 & !MMIO_MASK != before.settled().0 & !MMIO_MASK
    }
}
