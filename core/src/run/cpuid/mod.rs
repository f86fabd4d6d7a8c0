//! CPUID as the guest sees it: a table that the owner sets.
//!
//! Source: Intel SDM volume 2, "CPUID—CPU Identification"; AMD APM volume 3, "Obtaining Processor
//! Information Via the CPUID Instruction"; for the table's rules "The Definitive KVM API
//! Documentation", KVM_SET_CPUID2.
mod execute;
pub mod features;
pub mod supported;

use waterbear_hal::Hal;

use crate::Error;
use crate::mem::{Heap, Vec, array};

pub(super) use execute::Asked;
pub use features::Features;
pub use supported::{HostCpuid, supported};

/// The most entries of a table.
pub const MAX_ENTRIES: usize = 256;

/// The first leaf that hypervisors have for themselves.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// The first of the extended leaves.
pub const EXTENDED: u32 = 0x8000_0000;

/// One line of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidEntry {
    /// EAX of the question: the leaf.
    pub function: u32,
    /// ECX of the question, where [`significant`](CpuidEntry::significant) says that it matters.
    pub index: u32,
    /// Whether the answer depends on ECX.
    pub significant: bool,
    /// EAX, EBX, ECX and EDX of the answer.
    pub answer: [u32; 4],
}

/// Classes whose first leaves are found without a search, and how many leaves of each.
const CLASSES: usize = 3;
const NEAR: usize = 32;
/// No entry.
const NONE: u16 = u16::MAX;

/// A table, sorted by leaf.
pub struct Table<H: Hal> {
    entries: Vec<CpuidEntry, H>,
    /// Where the entries of the first leaves of each class begin.
    near: [u16; CLASSES * NEAR],
    /// What the entries mean for the rest of the CPU.
    features: Features,
    /// Beyond the last leaf, a CPU of this vendor repeats its highest basic leaf.
    repeats_highest: bool,
}

impl<H: Hal> Table<H> {
    /// No entries: every answer is zero.
    pub fn new(hal: &H) -> Self {
        Self {
            entries: Vec::new_in(Heap(hal.clone())),
            near: [NONE; CLASSES * NEAR],
            features: Features::none(),
            repeats_highest: false,
        }
    }

    /// Makes it one of `count` entries that `next` tells. Of two that answer the same question the
    /// first counts.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for more than [`MAX_ENTRIES`]; [`Error::NoMemory`]; those of `next`. The
    /// table is as before.
    pub fn replace(
        &mut self,
        hal: &H,
        count: usize,
        next: &mut dyn FnMut() -> Result<CpuidEntry, Error>,
    ) -> Result<(), Error> {
        if count > MAX_ENTRIES {
            return Err(Error::Invalid);
        }
        let mut entries = array(hal, count, |_| CpuidEntry::default())?;
        for end in 0..count {
            put_in_order(&mut entries, end, next()?);
        }
        self.near = [NONE; CLASSES * NEAR];
        for (at, entry) in entries.iter().enumerate().rev() {
            if let Some(near) = place(entry.function).and_then(|place| self.near.get_mut(place)) {
                *near = at as u16;
            }
        }
        self.entries = entries.into_vec();
        let [_, ebx, ecx, edx] = self.answer(0, 0);
        let name = [ebx, edx, ecx];
        self.repeats_highest = self.find(0, 0).is_some() && ![AMD, HYGON].contains(&name);
        self.features = Features::of(self);
        Ok(())
    }

    /// The entries.
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    /// What the guest's CPU has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The entry that answers a question.
    #[inline(never)]
    pub fn find(&self, function: u32, index: u32) -> Option<&CpuidEntry> {
        let start = match place(function) {
            Some(place) => usize::from(*self.near.get(place)?),
            None => self.entries.partition_point(|e| e.function < function),
        };
        self.entries
            .get(start..)?
            .iter()
            .take_while(|e| e.function == function)
            .find(|e| !e.significant || e.index == index)
    }

    /// The answer as the table has it; zeros where it has none.
    pub fn answer(&self, function: u32, index: u32) -> [u32; 4] {
        self.find(function, index).map_or([0; 4], |e| e.answer)
    }

    /// The answer of a CPU of this kind, also for leaves that it does not have.
    pub fn ask(&self, function: u32, index: u32) -> [u32; 4] {
        match self.find(function, index) {
            Some(entry) => entry.answer,
            None => self.absent(function, index),
        }
    }

    /// The answer where there is no entry: zeros inside the range of a class, and always with AMD;
    /// else the highest basic leaf.
    #[cold]
    fn absent(&self, function: u32, index: u32) -> [u32; 4] {
        let class = match function {
            0x4000_0000..0x5000_0000 => function & 0xffff_ff00,
            _ => function & EXTENDED,
        };
        let inside = self
            .find(class, 0)
            .is_some_and(|first| function <= first.answer[0]);
        if inside {
            // Levels of the topology that do not exist name themselves and their CPU.
            if matches!(function, 0xb | 0x1f) && index != 0 {
                let first = self.answer(function, 0);
                return [0, 0, index & 0xff, first[3]];
            }
            return [0; 4];
        }
        if !self.repeats_highest {
            return [0; 4];
        }
        let highest = self.answer(0, 0)[0];
        self.answer(highest, index)
    }

    /// The size in bytes of the XSAVE area for these parts of the state.
    pub fn xsave_size(&self, parts: u64, compacted: bool) -> u32 {
        const LEGACY_AND_HEADER: u32 = 576;
        const ALIGNED: u32 = 1 << 1;
        let mut size = LEGACY_AND_HEADER;
        for part in (2..63).filter(|part| parts >> part & 1 != 0) {
            let [length, offset, flags, _] = self.answer(0xd, part);
            let start = match (compacted, flags & ALIGNED != 0) {
                (false, _) => offset,
                (true, false) => size,
                (true, true) => size.checked_next_multiple_of(64).unwrap_or(size),
            };
            size = size.max(start.saturating_add(length));
        }
        size
    }
}

/// Puts an entry among those before `end`, which are in order: after the others of the same leaf,
/// so that their order stays.
fn put_in_order(entries: &mut [CpuidEntry], end: usize, entry: CpuidEntry) {
    let mut hole = end;
    while let Some(before) = hole.checked_sub(1)
        && let Some([first, second]) = entries.get_mut(before..=hole)
        && first.function > entry.function
    {
        *second = *first;
        hole = before;
    }
    if let Some(place) = entries.get_mut(hole) {
        *place = entry;
    }
}

/// The place of a leaf among those that are found without a search, if it is one of them.
fn place(function: u32) -> Option<usize> {
    let class = match function & !(NEAR as u32 - 1) {
        0 => 0,
        HYPERVISOR => NEAR,
        EXTENDED => 2 * NEAR,
        _ => return None,
    };
    Some(class + function as usize % NEAR)
}

/// CPUs whose vendors do not repeat leaves.
const AMD: [u32; 3] = words(b"AuthenticAMD");
const HYGON: [u32; 3] = words(b"HygonGenuine");

/// Twelve letters as the registers hold them.
pub(crate) const fn words(name: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *name;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
    ]
}
