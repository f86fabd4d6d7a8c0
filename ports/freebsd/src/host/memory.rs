//! Memory.
use core::alloc::Layout;
use core::ptr::NonNull;

use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::{AllocError, Hpa, Memory, PageTable, Pfn};

use super::{FreeBsd, allocated};
use crate::glue;

/// Where the kernel sees a frame: all of memory is mapped in one piece.
fn address(pfn: Pfn) -> *mut u8 {
    // SAFETY: written once, before anything else of ours runs.
    let direct_map = unsafe { glue::wb_direct_map };
    pfn.hpa().0.wrapping_add(direct_map) as *mut u8
}

fn frame(address: *mut u8) -> Pfn {
    // SAFETY: as above.
    let direct_map = unsafe { glue::wb_direct_map };
    Pfn(Hpa((address as u64).wrapping_sub(direct_map)).0 >> PAGE_SHIFT)
}

// SAFETY: the kernel's allocators give memory to one owner at a time; every
// frame that they give is in the direct map; what frees pages later waits for
// the readers.
unsafe impl Memory for FreeBsd {
    /// `vm_page_alloc_noobj(VM_ALLOC_WIRED | VM_ALLOC_ZERO)`.
    fn alloc_table(&self) -> Result<Pfn, AllocError> {
        self.alloc_pages(1)
    }

    /// An addition: the direct map.
    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        // SAFETY: the direct map does not begin at 0.
        unsafe { NonNull::new_unchecked(address(pfn).cast()) }
    }

    /// `vm_page_unwire_noq`, `vm_page_free`.
    unsafe fn free_table(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_pages(address(pfn), 1) }
    }

    /// The same, after all readers, with the `plinks` of `struct vm_page`.
    unsafe fn free_table_deferred(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_page_deferred(address(pfn)) }
    }

    /// `vm_page_alloc_noobj_contig`.
    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError> {
        Ok(frame(
            allocated(glue::wb_alloc_pages(count as u64))?.as_ptr(),
        ))
    }

    /// An addition: the direct map.
    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8> {
        // SAFETY: the direct map does not begin at 0.
        unsafe { NonNull::new_unchecked(address(pfn)) }
    }

    /// The same as for tables, unless a process has mapped them.
    unsafe fn free_pages(&self, pfn: Pfn, count: usize) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_pages(address(pfn), count as u64) }
    }

    /// `malloc_aligned`.
    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        // SAFETY: process context, as the caller promises.
        allocated(unsafe { glue::wb_alloc(layout.size(), layout.align()) })
    }

    /// `free`.
    unsafe fn free_bytes(&self, ptr: NonNull<u8>, _layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free(ptr.as_ptr()) }
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
