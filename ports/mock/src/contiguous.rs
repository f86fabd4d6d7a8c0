//! Contiguous pages, for control structures of hardware.

use std::alloc::Layout;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Mutex;

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{AllocError, Memory, Pfn};

use crate::sys::book;
use crate::{Mock, broken};

/// The frame number of the first contiguous page.
const BASE: u64 = 0x80_0000;

/// Pages that are in use. Frame numbers are never reused.
#[derive(Default)]
pub(crate) struct Contiguous {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    used: u64,
    blocks: HashMap<Pfn, Block>,
}

#[derive(Clone, Copy)]
struct Block(NonNull<u8>, usize);

// SAFETY: a block is an address; whoever uses the memory answers for it.
unsafe impl Send for Block {}

fn layout(count: usize) -> Layout {
    let page = PAGE_SIZE as usize;
    match Layout::from_size_align(count * page, page) {
        Ok(layout) if count > 0 => layout,
        _ => panic!("{count} contiguous pages"),
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// [`Memory::alloc_pages`].
    #[track_caller]
    pub(crate) fn contiguous_alloc(&self, count: usize) -> Result<Pfn, AllocError> {
        let start = self.alloc_bytes(layout(count))?;
        let mut book = book(&self.0.contiguous.book);
        let pfn = Pfn(BASE + book.used);
        book.used += count as u64;
        book.blocks.insert(pfn, Block(start, count));
        Ok(pfn)
    }

    /// [`Memory::pages`].
    #[track_caller]
    pub(crate) fn contiguous_start(&self, pfn: Pfn) -> NonNull<u8> {
        match book(&self.0.contiguous.book).blocks.get(&pfn) {
            Some(block) => block.0,
            None => panic!("{pfn:?} is not the first of contiguous pages"),
        }
    }

    /// [`Memory::free_pages`].
    #[track_caller]
    pub(crate) fn contiguous_free(&self, pfn: Pfn, count: usize) {
        let block = book(&self.0.contiguous.book).blocks.remove(&pfn);
        match block {
            Some(Block(start, pages)) if pages == count => {
                // SAFETY: the book had it, so it came from `alloc_bytes` with
                // this layout and was not freed since.
                unsafe { self.free_bytes(start, layout(count)) }
            }
            _ => broken!("{count} contiguous pages at {pfn:?} are freed that never were"),
        }
    }
}
