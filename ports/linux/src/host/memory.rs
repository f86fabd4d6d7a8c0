//! Memory, accounted to the process that asks for it.
use core::alloc::Layout;
use core::ptr::NonNull;

use waterbear_hal::addr::{PAGE_SHIFT, PAGE_SIZE};
use waterbear_hal::{AllocError, Hpa, Memory, PageTable, Pfn};

use super::{Linux, allocated};
use crate::glue;

/// The most that `kvzalloc` takes without a warning.
const MOST: usize = i32::MAX as usize;

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

/// How many bytes to ask for, so that they come aligned: `kmalloc` aligns
/// sizes that are powers of two to themselves, all others to eight bytes.
fn aligned_size(layout: Layout) -> Result<usize, AllocError> {
    const ALWAYS: usize = 8;
    let size = if layout.align() <= ALWAYS {
        layout.size()
    } else {
        let size = layout.size().max(layout.align());
        size.checked_next_power_of_two().ok_or(AllocError)?
    };
    (size <= MOST).then_some(size).ok_or(AllocError)
}

// SAFETY: the kernel's allocators give memory to one owner at a time; every
// frame that they give is in the direct map; `call_rcu` waits for the readers.
unsafe impl Memory for Linux {
    /// `get_zeroed_page(GFP_KERNEL_ACCOUNT)`.
    fn alloc_table(&self) -> Result<Pfn, AllocError> {
        // SAFETY: process context, as the caller promises.
        let page = allocated(unsafe { glue::wb_alloc_page() })?;
        Ok(frame(page.as_ptr()))
    }

    /// An addition: the direct map.
    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        // SAFETY: the direct map does not begin at 0.
        unsafe { NonNull::new_unchecked(address(pfn).cast()) }
    }

    /// `free_page`.
    unsafe fn free_table(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_page(address(pfn)) }
    }

    /// `call_rcu` with the `rcu_head` of `struct page`.
    unsafe fn free_table_deferred(&self, pfn: Pfn) {
        // SAFETY: as the caller promises.
        unsafe { glue::wb_free_page_deferred(address(pfn)) }
    }

    /// `alloc_pages_exact(GFP_KERNEL_ACCOUNT | __GFP_ZERO)`.
    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError> {
        let size = count.checked_mul(PAGE_SIZE as usize).ok_or(AllocError)?;
        // SAFETY: process context, as the caller promises.
        let pages = allocated(unsafe { glue::wb_alloc_pages(size) })?;
        Ok(frame(pages.as_ptr()))
    }

    /// An addition: the direct map.
    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8> {
        // SAFETY: the direct map does not begin at 0.
        unsafe { NonNull::new_unchecked(address(pfn)) }
    }

    /// `free_pages_exact`.
    unsafe fn free_pages(&self, pfn: Pfn, count: usize) {
        // SAFETY: as the caller promises; `count` went through `alloc_pages`.
        unsafe { glue::wb_free_pages(address(pfn), count * PAGE_SIZE as usize) }
    }

    /// `kvzalloc(GFP_KERNEL_ACCOUNT)`.
    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        // SAFETY: process context, as the caller promises.
        allocated(unsafe { glue::wb_alloc(aligned_size(layout)?) })
    }

    /// `kvfree`.
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
