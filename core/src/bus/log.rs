//! The page in which writes to devices wait until the owner looks.
//!
//! Two counters and a ring of records. The kernel appends at `last`, the owner takes from `first`,
//! and the ring is empty when both are equal. The owner can write anything anywhere in the page at
//! any time, so the counters are read once and checked: the worst that it can do is to lose its own
//! writes.
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::addr::PAGE_SIZE;

use crate::abi::kvm::kvm_coalesced_mmio;
use crate::emulate::Target;

/// The page, in the words that it is made of.
pub type Words = [AtomicU32; PAGE_SIZE as usize / 4];

const WORD: usize = size_of::<u32>();
// `struct kvm_coalesced_mmio_ring`: two counters, and the records.
const FIRST: usize = 0;
const LAST: usize = 1;
const RECORDS: usize = 2;
const RECORD: usize = size_of::<kvm_coalesced_mmio>() / WORD;
/// How many records there are, one of which is always empty.
pub const LENGTH: u32 = ((PAGE_SIZE as usize / WORD - RECORDS) / RECORD) as u32;

// The order in which `append` writes the words of a record.
const _: () = assert!(
    offset_of!(kvm_coalesced_mmio, phys_addr) == 0
        && offset_of!(kvm_coalesced_mmio, len) == 2 * WORD
        && offset_of!(kvm_coalesced_mmio, __bindgen_anon_1) == 3 * WORD
        && offset_of!(kvm_coalesced_mmio, data) == 4 * WORD
        && RECORD == 6
);

/// Appends a write of up to eight bytes; whether there is room. One thread at a time.
pub fn append(words: &Words, target: Target, bytes: &[u8]) -> bool {
    let counter = |at: usize| words.get(at).map(|word| word.load(Ordering::Acquire));
    let (Some(first), Some(last)) = (counter(FIRST), counter(LAST)) else {
        return false;
    };
    let next = last.wrapping_add(1) % LENGTH;
    if last >= LENGTH || first >= LENGTH || next == first {
        return false;
    }
    let (is_port, address) = match target {
        Target::Memory(address) => (0, address),
        Target::Port(port) => (1, port.into()),
    };
    let mut data = [0; 8];
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = *from;
    }
    let data = u64::from_le_bytes(data);
    let record = words.get(RECORDS + last as usize * RECORD..);
    let values = [
        address as u32,
        (address >> 32) as u32,
        bytes.len() as u32,
        is_port,
        data as u32,
        (data >> 32) as u32,
    ];
    for (word, value) in record.unwrap_or_default().iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
    if let Some(word) = words.get(LAST) {
        // Release: the owner that sees the counter sees the record.
        word.store(next, Ordering::Release);
    }
    true
}
