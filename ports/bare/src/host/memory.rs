//! Memory: one heap behind the image, mapped one to one.
use core::alloc::Layout;
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};
use waterbear_hal::{AllocError, Memory, PageTable, Pfn};

use super::irq_lock::IrqLock;
use super::{Bare, rcu};
use crate::boot::MAPPED;

/// How much memory the machine must have.
const HEAP_END: usize = 96 << 20;
const _: () = assert!(HEAP_END as u64 <= MAPPED);
/// Where the heap ends.
pub const END: u64 = HEAP_END as u64;
/// Every frame number of the heap is below this.
pub const FRAMES: usize = HEAP_END >> PAGE_SHIFT;

static HEAP: IrqLock<Heap> = IrqLock::new(Heap::empty());

unsafe extern "C" {
    static image_end: u8;
}

/// Gives the memory behind the image to the heap. Once, before anything else.
pub fn init() {
    let start = (&raw const image_end) as usize;
    HEAP.with(|heap| {
        // SAFETY: the range is memory that is mapped and that nobody uses.
        unsafe { heap.init(start as *mut u8, HEAP_END - start) }
    });
}

/// How many bytes are in use.
pub fn used() -> usize {
    HEAP.with(|heap| heap.used())
}

fn layout(pages: usize) -> Result<Layout, AllocError> {
    let size = pages.checked_mul(PAGE_SIZE as usize).ok_or(AllocError)?;
    Layout::from_size_align(size, PAGE_SIZE as usize).map_err(|_| AllocError)
}

fn address(pfn: Pfn) -> NonNull<u8> {
    match NonNull::new(pfn.hpa().0 as *mut u8) {
        Some(at) => at,
        None => panic!("frame 0 is never given out"),
    }
}

// SAFETY: the heap gives memory to one owner at a time; everything is mapped
// one to one, so a frame's address is its number; deferred frees wait for the
// readers (`rcu`).
unsafe impl Memory for Bare {
    fn alloc_table(&self) -> Result<Pfn, AllocError> {
        self.alloc_pages(1)
    }

    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        address(pfn).cast()
    }

    unsafe fn free_table(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { self.free_pages(pfn, 1) }
    }

    unsafe fn free_table_deferred(&self, pfn: Pfn) {
        rcu::defer(pfn);
    }

    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError> {
        let at = self.alloc_bytes(layout(count)?)?;
        Ok(Pfn(at.as_ptr() as u64 >> PAGE_SHIFT))
    }

    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8> {
        address(pfn)
    }

    unsafe fn free_pages(&self, pfn: Pfn, count: usize) {
        if let Ok(layout) = layout(count) {
            // SAFETY: as the caller promises.
            unsafe { self.free_bytes(address(pfn), layout) }
        }
    }

    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let at = HEAP
            .with(|heap| heap.allocate_first_fit(layout))
            .map_err(|()| AllocError)?;
        // SAFETY: `layout.size()` bytes that are ours now.
        unsafe { at.write_bytes(0, layout.size()) }
        Ok(at)
    }

    unsafe fn free_bytes(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: as the caller promises.
        HEAP.with(|heap| unsafe { heap.deallocate(ptr, layout) });
    }
}

/// The global heap, which nobody uses: a crate of ours links `alloc` for its
/// collections over other allocators, and then the language wants one.
struct NoGlobalHeap;

// SAFETY: it never returns memory.
unsafe impl core::alloc::GlobalAlloc for NoGlobalHeap {
    unsafe fn alloc(&self, _layout: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _ptr: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static NO_GLOBAL_HEAP: NoGlobalHeap = NoGlobalHeap;
