//! Page tables and heap memory.

use std::alloc::Layout;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::memory::ENTRIES;
use waterbear_hal::sync::twin::{self, Part};
use waterbear_hal::{AllocError, Memory, PageTable, Pfn};

use crate::arena::State;
use crate::history::Event;
use crate::sys::{self, book};
use crate::{Machine, Mock, POISON, broken};

/// Heap memory that is in use: address and layout.
#[derive(Default)]
pub(crate) struct Heap {
    blocks: Mutex<HashMap<usize, Layout>>,
}

impl Heap {
    /// How many blocks and bytes are in use.
    pub(crate) fn live(&self) -> (usize, usize) {
        let blocks = book(&self.blocks);
        (blocks.len(), blocks.values().map(Layout::size).sum())
    }
}

impl Machine {
    /// Really frees a page table.
    #[track_caller]
    pub(crate) fn release_frame(&self, pfn: Pfn, was: State) {
        self.arena.free(pfn, was);
        self.record(Event::Free { table: pfn });
    }

    /// Panics unless this thread may look at the page table `pfn` now.
    #[cold]
    #[track_caller]
    fn check_table(&self, pfn: Pfn) {
        match self.arena.state(pfn) {
            Some(State::Allocated) => {}
            Some(State::Deferred) => {
                if self.thread().rcu_depth.get() == 0 {
                    broken!(
                        "page table {pfn:?} waits to be freed and is used outside an RCU read section"
                    );
                }
            }
            Some(State::Free) => broken!("use after free: page table {pfn:?}"),
            None if pfn.0 == (POISON >> 12) & ((1 << 40) - 1) => {
                panic!("use after free: a link was read from a freed page table")
            }
            None => panic!("{pfn:?} is no page table"),
        }
    }

    #[cold]
    #[track_caller]
    fn entry_written(&self, table: Pfn, index: usize, old: u64, new: u64) {
        if self.checking {
            if index >= ENTRIES {
                broken!("entry {index} of {table:?} does not exist");
            }
            if old == POISON {
                broken!(
                    "use after free: entry {index} of the freed page table {table:?} was set to {new:#x}"
                );
            }
            self.check_table(table);
        }
        self.record(Event::Write {
            table,
            index,
            old,
            new,
        });
    }
}

// SAFETY: `table` is the address of the frame in the arena, whose memory stays
// until the machine goes; deferred frames wait as `grace` says; heap memory
// comes from the system's allocator.
unsafe impl<const NOTIFIER: bool> Memory for Mock<NOTIFIER> {
    #[track_caller]
    fn alloc_table(&self) -> Result<Pfn, AllocError> {
        let machine = &*self.0;
        machine.may_sleep("alloc_table");
        machine.inject.allocation()?;
        let pfn = match machine.arena.alloc() {
            Some(pfn) => pfn,
            None => {
                machine.reclaim();
                machine.arena.alloc().ok_or(AllocError)?
            }
        };
        machine.record(Event::Alloc { table: pfn });
        Ok(pfn)
    }

    #[inline]
    #[track_caller]
    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable> {
        if self.0.checking {
            self.0.check_table(pfn);
        }
        self.0.arena.table(pfn)
    }

    #[track_caller]
    unsafe fn free_table(&self, pfn: Pfn) {
        if sys::model_failed() {
            return;
        }
        self.0.needs_irqs_on("free_table");
        self.0.release_frame(pfn, State::Allocated);
    }

    #[track_caller]
    unsafe fn free_table_deferred(&self, pfn: Pfn) {
        if sys::model_failed() {
            return;
        }
        self.0.needs_irqs_on("free_table_deferred");
        if twin::removed(Part::TableGracePeriod) {
            return self.0.release_frame(pfn, State::Allocated);
        }
        self.0.arena.defer(pfn);
        self.0.defer_free(pfn);
    }

    #[inline]
    #[track_caller]
    fn note_entry_write(&self, table: Pfn, index: usize, old: u64, new: u64) {
        if self.0.watching.load(Relaxed) {
            self.0.entry_written(table, index, old, new);
        }
    }

    #[track_caller]
    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError> {
        self.contiguous_alloc(count)
    }

    #[track_caller]
    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8> {
        self.contiguous_start(pfn)
    }

    #[track_caller]
    unsafe fn free_pages(&self, pfn: Pfn, count: usize) {
        self.contiguous_free(pfn, count);
    }

    #[track_caller]
    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let machine = &*self.0;
        machine.may_sleep("alloc_bytes");
        assert!(layout.size() > 0, "alloc_bytes of nothing");
        assert!(
            layout.align() <= 4096,
            "alloc_bytes aligns to a page at most"
        );
        machine.inject.allocation()?;
        // SAFETY: the layout is not empty.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        let block = NonNull::new(block).ok_or(AllocError)?;
        book(&machine.heap.blocks).insert(block.addr().get(), layout);
        Ok(block)
    }

    #[track_caller]
    unsafe fn free_bytes(&self, ptr: NonNull<u8>, layout: Layout) {
        let machine = &*self.0;
        if layout.size() > PAGE_SIZE as usize {
            machine.may_sleep("free_bytes of more than a page");
        } else {
            machine.needs_irqs_on("free_bytes");
        }
        let was = book(&machine.heap.blocks).remove(&ptr.addr().get());
        let Some(was) = was else {
            return broken!("double free, or never allocated: heap block {ptr:?}");
        };
        // SAFETY: `alloc_bytes` allocated this block with this layout and the
        // book says that it was not freed since.
        unsafe { std::alloc::dealloc(ptr.as_ptr(), was) };
        if was != layout {
            broken!("a block of {was:?} is freed as {layout:?}");
        }
    }
}
