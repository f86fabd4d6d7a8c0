//! Places for objects: pages in the upper two GiB, where the kernel's code is, each with the rights
//! that its sections ask for and no others.
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Cpu, Memory, Pfn};

use crate::boot;
use crate::host::Bare;

/// Where the first object goes.
const START: u64 = 0xffff_ffff_a000_0000;
/// Where the kernel sees all memory, as the module is told.
const DIRECT_MAP: u64 = 0xffff_f800_0000_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where the next object goes.
static NEXT: AtomicU64 = AtomicU64::new(START);

/// What may be done with a section's bytes, beside reading them.
#[derive(Clone, Copy)]
pub struct Access {
    pub write: bool,
    pub execute: bool,
}

/// Some pages. When they go, their addresses lead nowhere and are not used again.
pub struct Place {
    start: u64,
    pages: u64,
    first: Pfn,
}

type Table = [AtomicU64; 512];

/// Maps all memory where the kernel has its direct map. Once.
pub fn map_all() {
    let top = boot::top_table();
    let low = top[0].load(Ordering::Relaxed) | NO_EXECUTE;
    top[index(DIRECT_MAP, 4)].store(low, Ordering::Relaxed);
}

fn index(address: u64, level: u64) -> usize {
    (address >> (12 + 9 * (level - 1)) & 511) as usize
}

/// The table that an entry refers to, which is made if there is none.
fn below(entry: &AtomicU64) -> Option<&'static Table> {
    if entry.load(Ordering::Relaxed) & PRESENT == 0 {
        let table = Bare.alloc_pages(1).ok()?;
        entry.store(table.hpa().0 | PRESENT | WRITABLE, Ordering::Relaxed);
    }
    let at = entry.load(Ordering::Relaxed) & ADDRESS;
    // SAFETY: a table, which stays, mapped one to one, and used as atomics.
    Some(unsafe { &*(at as *const Table) })
}

/// The entry of a page.
fn entry(address: u64) -> Option<&'static AtomicU64> {
    let mut table = boot::top_table();
    for level in [4, 3, 2] {
        table = below(&table[index(address, level)])?;
    }
    Some(&table[index(address, 1)])
}

impl Place {
    /// Room for so many bytes, zeroed.
    pub fn new(size: u64) -> Option<Self> {
        let pages = size.div_ceil(PAGE_SIZE);
        let start = NEXT.load(Ordering::Relaxed);
        // With a hole behind it.
        NEXT.store(start + (pages + 1) * PAGE_SIZE, Ordering::Relaxed);
        let first: Pfn = Bare.alloc_pages(pages as usize).ok()?;
        for page in 0..pages {
            let at = first.hpa().0 + page * PAGE_SIZE;
            entry(start + page * PAGE_SIZE)?
                .store(at | PRESENT | WRITABLE | NO_EXECUTE, Ordering::Relaxed);
        }
        Some(Self {
            start,
            pages,
            first,
        })
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.start
    }

    /// Writes bytes, before it is finished.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let end = self.start + self.pages * PAGE_SIZE;
        assert!(at >= self.start && at + bytes.len() as u64 <= end);
        // SAFETY: inside of this place, whose pages may be written still.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) }
    }

    /// Allows something on the pages of some bytes. The processor does not know of it yet.
    pub fn allow(&self, at: u64, size: u64, access: Access) {
        let first = at & !(PAGE_SIZE - 1);
        for page in (first..at + size).step_by(PAGE_SIZE as usize) {
            let Some(entry) = entry(page) else { continue };
            entry.fetch_or(access.bits(), Ordering::Relaxed);
        }
    }

    /// Makes the rights those that were allowed.
    pub fn finish(&self) {
        for page in 0..self.pages {
            let Some(entry) = entry(self.start + page * PAGE_SIZE) else {
                continue;
            };
            let asked = entry.load(Ordering::Relaxed);
            let mut now = asked & ADDRESS | PRESENT;
            if asked & MAY_WRITE != 0 {
                now |= WRITABLE;
            }
            if asked & MAY_EXECUTE == 0 {
                now |= NO_EXECUTE;
            }
            entry.store(now, Ordering::Relaxed);
        }
        forget();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for page in 0..self.pages {
            if let Some(entry) = entry(self.start + page * PAGE_SIZE) {
                entry.store(0, Ordering::Relaxed);
            }
        }
        forget();
        // SAFETY: from `alloc_pages`, and no processor finds them any more.
        unsafe { Bare.free_pages(self.first, self.pages as usize) }
    }
}

/// Makes every processor forget what it knows of pages.
fn forget() {
    Bare.call_on(&Bare.online(), &|_| {
        // SAFETY: the tables stay the same.
        unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack)) }
    });
}

// Bits that the processor leaves to us.
const MAY_WRITE: u64 = 1 << 9;
const MAY_EXECUTE: u64 = 1 << 10;

impl Access {
    fn bits(self) -> u64 {
        let write = if self.write { MAY_WRITE } else { 0 };
        let execute = if self.execute { MAY_EXECUTE } else { 0 };
        write | execute
    }
}
