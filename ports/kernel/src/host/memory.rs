//! Memory.
use core::alloc::Layout;
use core::ptr::NonNull;

use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::{AllocError, Hpa, Memory, PageTable, Pfn};

use super::{Kernel, allocated};
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

// SAFETY: the kernels' allocators give memory to one owner at a time; every
// frame that they give is in the direct map; what frees pages later waits for
// the readers.
unsafe impl Memory for Kernel {
    /// As `alloc_pages`.
    fn alloc_table(&self) -> Result<Pfn, AllocError> {
        self.alloc_pages(1)
    }

    /// An addition: the direct map.
    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        // SAFETY: the direct map does not begin at 0.
        unsafe { NonNull::new_unchecked(address(pfn).cast()) }
    }

    /// As `free_pages`.
    unsafe fn free_table(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { self.free_pages(pfn, 1) }
    }

    /// `call_rcu` with the `rcu_head` of `struct page`; the same, after all readers, with the
    /// `plinks` of `struct vm_page`.
    unsafe fn free_table_deferred(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_page_deferred(address(pfn)) }
    }

    /// `get_zeroed_page`, `alloc_pages_exact`; `vm_page_alloc_noobj`,
    /// `vm_page_alloc_noobj_contig`.
    #[inline(never)]
    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError> {
        let pages = allocated(glue::wb_alloc_pages(count as u64))?;
        Ok(frame(pages.as_ptr()))
    }

    /// An addition: the direct map.
    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8> {
        // SAFETY: the direct map does not begin at 0.
        unsafe { NonNull::new_unchecked(address(pfn)) }
    }

    /// `free_pages_exact`; `vm_page_unwire_noq`, `vm_page_free`, unless a process has mapped them.
    #[inline(never)]
    unsafe fn free_pages(&self, pfn: Pfn, count: usize) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_pages(address(pfn), count as u64) }
    }

    /// `kvzalloc(GFP_KERNEL_ACCOUNT)`; `malloc_aligned`.
    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        allocated(glue::wb_alloc(layout.size(), layout.align()))
    }

    /// `kvfree`; `free`.
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
