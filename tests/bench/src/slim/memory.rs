//! Page tables out of one large allocation, and a heap.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use waterbear_hal::{AllocError, Memory, PageTable, Pfn};

use super::SlimHost;

/// The frame number of the first page table.
const BASE: Pfn = Pfn(0x100);
/// The end of a list of frames.
const NONE: u32 = u32::MAX;

/// All page-table pages.
struct Arena {
    base: NonNull<PageTable>,
    /// Per frame, the next one in the list that it is in.
    next: Box<[AtomicU32]>,
    lists: Mutex<Lists>,
}

struct Lists {
    /// Frames from here on were never used.
    fresh: u32,
    free: u32,
    deferred: u32,
    /// The frames that are neither fresh nor free nor deferred.
    live: usize,
}

// SAFETY: the memory behind `base` is atomics and lives as long as the process.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`; the rest is atomics and a mutex.
unsafe impl Sync for Arena {}

static ARENA: OnceLock<Arena> = OnceLock::new();
/// Where frame 0 would be: what a kernel's direct map is.
static DIRECT_MAP: AtomicPtr<PageTable> = AtomicPtr::new(null_mut());
/// The bytes that the core has on the heap.
static HEAP: AtomicUsize = AtomicUsize::new(0);

/// What is in use.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// Page tables.
    pub tables: usize,
    /// Bytes on the heap.
    pub heap: usize,
}

impl SlimHost {
    /// Sets the machine up with this many page-table pages. Once.
    pub fn boot(tables: usize) -> Self {
        let layout = Layout::array::<PageTable>(tables).expect("the arena fits in memory");
        // SAFETY: the layout is not empty: the caller wants tables.
        let base = unsafe { alloc_zeroed(layout) };
        let arena = Arena {
            base: NonNull::new(base.cast()).expect("the host has the memory"),
            next: (0..tables).map(|_| AtomicU32::new(NONE)).collect(),
            lists: Mutex::new(Lists {
                fresh: 0,
                free: NONE,
                deferred: NONE,
                live: 0,
            }),
        };
        let frame_0 = arena.base.as_ptr().wrapping_sub(BASE.0 as usize);
        DIRECT_MAP.store(frame_0, Ordering::Relaxed);
        assert!(ARENA.set(arena).is_ok(), "the machine boots once");
        Self
    }

    /// What is in use now.
    pub(crate) fn usage() -> Usage {
        Usage {
            tables: lists(arena()).live,
            heap: HEAP.load(Ordering::Relaxed),
        }
    }

    /// Makes the deferred frames free.
    pub(super) fn free_deferred(&self) {
        let arena = arena();
        let mut lists = lists(arena);
        while lists.deferred != NONE {
            let index = lists.deferred;
            let next = &arena.next[index as usize];
            lists.deferred = next.load(Ordering::Relaxed);
            next.store(lists.free, Ordering::Relaxed);
            lists.free = index;
        }
    }
}

fn arena() -> &'static Arena {
    ARENA.get().expect("the machine has booted")
}

fn lists(arena: &Arena) -> std::sync::MutexGuard<'_, Lists> {
    arena.lists.lock().unwrap_or_else(PoisonError::into_inner)
}

const PAGE: usize = size_of::<PageTable>();

fn pages_layout(count: usize) -> Result<Layout, AllocError> {
    let bytes = count.checked_mul(PAGE).ok_or(AllocError)?;
    Layout::from_size_align(bytes, PAGE).map_err(|_| AllocError)
}

#[inline(always)]
fn index(pfn: Pfn) -> u32 {
    (pfn.0 - BASE.0) as u32
}

// SAFETY: a frame is in one list or live; deferred ones are reused after a
// barrier only. Heap memory comes from the system's allocator.
unsafe impl Memory for SlimHost {
    fn alloc_table(&self) -> Result<Pfn, AllocError> {
        let arena = arena();
        let index = {
            let mut lists = lists(arena);
            let index = if lists.free != NONE {
                let index = lists.free;
                lists.free = arena.next[index as usize].load(Ordering::Relaxed);
                index
            } else if (lists.fresh as usize) < arena.next.len() {
                lists.fresh += 1;
                lists.fresh - 1
            } else {
                return Err(AllocError);
            };
            lists.live += 1;
            index
        };
        // SAFETY: the index is below the number of frames.
        let table = unsafe { arena.base.add(index as usize) };
        // A kernel clears every page that it hands out.
        // SAFETY: the frame is in no list and nobody's, so nobody looks at it.
        unsafe { table.write_bytes(0, 1) };
        Ok(BASE.add(u64::from(index)))
    }

    #[inline(always)]
    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        // Relaxed: the frame came from `alloc_table`, after `boot`.
        let frame_0 = DIRECT_MAP.load(Ordering::Relaxed);
        let table = frame_0.wrapping_add(pfn.0 as usize);
        // SAFETY: the frame is one of the arena's, as the caller promises, so
        // this points into the arena.
        unsafe { NonNull::new_unchecked(table) }
    }

    unsafe fn free_table(&self, pfn: Pfn) {
        let arena = arena();
        let mut lists = lists(arena);
        arena.next[index(pfn) as usize].store(lists.free, Ordering::Relaxed);
        lists.free = index(pfn);
        lists.live -= 1;
    }

    unsafe fn free_table_deferred(&self, pfn: Pfn) {
        let arena = arena();
        let mut lists = lists(arena);
        arena.next[index(pfn) as usize].store(lists.deferred, Ordering::Relaxed);
        lists.deferred = index(pfn);
        lists.live -= 1;
    }

    // Not of the arena: what is measured is page tables. The number of such a frame is that of the
    // page it is in.
    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError> {
        // SAFETY: the layout is not empty, as the core promises.
        let pages = unsafe { alloc_zeroed(pages_layout(count)?) };
        let first = NonNull::new(pages).ok_or(AllocError)?;
        Ok(Pfn((first.as_ptr().expose_provenance() / PAGE) as u64))
    }

    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8> {
        let address = pfn.0 as usize * PAGE;
        let first = std::ptr::with_exposed_provenance_mut(address);
        NonNull::new(first).expect("the pages were allocated")
    }

    unsafe fn free_pages(&self, pfn: Pfn, count: usize) {
        let layout = pages_layout(count).expect("the pages were allocated");
        // SAFETY: as the caller promises.
        let first = unsafe { self.pages(pfn) };
        // SAFETY: `alloc_pages` allocated them with this layout.
        unsafe { dealloc(first.as_ptr(), layout) }
    }

    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        // SAFETY: the layout is not empty, as the core promises.
        let block = unsafe { alloc_zeroed(layout) };
        HEAP.fetch_add(layout.size(), Ordering::Relaxed);
        NonNull::new(block).ok_or(AllocError)
    }

    unsafe fn free_bytes(&self, ptr: NonNull<u8>, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `alloc_bytes` allocated it with this layout.
        unsafe { dealloc(ptr.as_ptr(), layout) }
    }
}
