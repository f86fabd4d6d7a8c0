//! Memory: page-table pages and zeroed heap memory.
use core::alloc::Layout;
use core::ptr::NonNull;

use crate::addr::Pfn;
use crate::sync::atomic::AtomicU64;

/// log2 of the number of entries in a page table.
///
/// Nine on hardware. The model checker explores every interleaving of every
/// entry that is touched, so there a table has two entries.
pub const ENTRY_BITS: u32 = if cfg!(loom) { 1 } else { 9 };
/// The number of entries in a page table.
pub const ENTRIES: usize = 1 << ENTRY_BITS;

/// Memory could not be had. The operation has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocError;

/// A page table as hardware sees it: entries that the CPU's page walker reads
/// and, for accessed and dirty bits, writes at any time.
///
/// So there is never a `&mut` to a live one, and every access is atomic.
#[repr(C)]
#[cfg_attr(not(loom), repr(align(4096)))]
pub struct PageTable {
    /// The entries, in order of address.
    pub entries: [AtomicU64; ENTRIES],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PageTable>() == 4096);

/// Page-table pages and heap memory.
///
/// # Safety
///
/// The implementor promises that [`table`](Memory::table) is right for every
/// frame that [`alloc_table`](Memory::alloc_table) returned and that has not
/// been freed, that a frame freed with
/// [`free_table_deferred`](Memory::free_table_deferred) stays readable until
/// every RCU read section that had begun before is over, and that
/// [`alloc_bytes`](Memory::alloc_bytes) returns memory that nothing else uses.
pub unsafe trait Memory {
    /// Allocates a page-table page with every entry zero.
    ///
    /// The caller owns the frame until it frees it. May sleep; interrupts on,
    /// no spin lock and no RCU section held. The page is accounted to the
    /// process that calls.
    ///
    /// Linux: `get_zeroed_page(GFP_KERNEL_ACCOUNT)`. FreeBSD:
    /// `vm_page_alloc_noobj(VM_ALLOC_WIRED | VM_ALLOC_ZERO)`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn alloc_table(&self) -> Result<Pfn, AllocError>;

    /// Where the kernel sees a page-table page.
    ///
    /// Any context. Costs an addition on hosts with a direct map.
    ///
    /// Linux: `phys_to_virt`. FreeBSD: `PHYS_TO_DMAP`.
    ///
    /// # Safety
    ///
    /// `pfn` came from [`alloc_table`](Memory::alloc_table) of this host and
    /// the caller's right to read it (ownership, or an RCU read section that
    /// began while the table was linked) outlives every use of the result.
    unsafe fn table(&self, pfn: Pfn) -> NonNull<PageTable>;

    /// Frees a page-table page that nobody else can reach.
    ///
    /// Any context with interrupts on; does not sleep.
    ///
    /// Linux: `free_page`. FreeBSD: `vm_page_unwire_noq`, `vm_page_free`.
    ///
    /// # Safety
    ///
    /// The caller owns `pfn`, no CPU walks it, and no RCU reader can see it.
    unsafe fn free_table(&self, pfn: Pfn);

    /// Frees a page-table page after a grace period: when every RCU read
    /// section that is open now has been left.
    ///
    /// Never fails and never allocates: the two words that the host's deferral
    /// mechanism needs are in the host's own descriptor of the page, so the
    /// table's entries stay intact for readers that still walk it. Any context
    /// with interrupts on, spin locks and RCU sections included; does not
    /// sleep.
    ///
    /// Linux: `call_rcu` with the `rcu_head` of `struct page`. FreeBSD:
    /// `epoch_call` with the `plinks` of `struct vm_page`, two words that an
    /// unmanaged wired page does not use.
    ///
    /// # Safety
    ///
    /// The caller owns `pfn`, has unlinked it from every table, and the TLB
    /// flush that its removal calls for comes before the end of the caller's
    /// own RCU read section.
    unsafe fn free_table_deferred(&self, pfn: Pfn);

    /// Tells the host that an entry was written. For observers only: a kernel
    /// port leaves the empty default.
    ///
    /// The mock records the writes, so that a test can rewind to each of them.
    #[inline(always)]
    fn note_entry_write(&self, table: Pfn, index: usize, old: u64, new: u64) {
        let _ = (table, index, old, new);
    }

    /// Allocates `count` physically contiguous pages, all zero, for control
    /// structures that hardware reads by physical address.
    ///
    /// The caller owns them. Context as for
    /// [`alloc_table`](Memory::alloc_table). `count` is at least 1 and small.
    ///
    /// Linux: `alloc_pages_exact(GFP_KERNEL_ACCOUNT | __GFP_ZERO)`. FreeBSD:
    /// `contigmalloc(9)`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn alloc_pages(&self, count: usize) -> Result<Pfn, AllocError>;

    /// Where the kernel sees pages of [`alloc_pages`](Memory::alloc_pages). Any
    /// context.
    ///
    /// # Safety
    ///
    /// `pfn` came from `alloc_pages` of this host and is not freed while the
    /// result is used.
    unsafe fn pages(&self, pfn: Pfn) -> NonNull<u8>;

    /// Frees pages. Context as for [`free_table`](Memory::free_table).
    ///
    /// Linux: `free_pages_exact`. FreeBSD: `free(9)`.
    ///
    /// # Safety
    ///
    /// `pfn` and `count` are those of one `alloc_pages`, the caller owns the
    /// pages, and no CPU uses them.
    unsafe fn free_pages(&self, pfn: Pfn, count: usize);

    /// Allocates zeroed heap memory, at any size: large arrays need not be
    /// physically contiguous.
    ///
    /// May sleep; interrupts on, no spin lock and no RCU section held. `layout`
    /// has a non-zero size and an alignment of at most 4096.
    ///
    /// Linux: `kvzalloc(GFP_KERNEL_ACCOUNT)`. FreeBSD: `malloc(9)` with
    /// `M_WAITOK | M_ZERO` up to a size, `M_NOWAIT` with retries above.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn alloc_bytes(&self, layout: Layout) -> Result<NonNull<u8>, AllocError>;

    /// Frees heap memory. Of more than a page may sleep, because a large area
    /// is unmapped; of less does not, and is right in every context with
    /// interrupts on: the last handle to a root may go in a notification that
    /// must not sleep.
    ///
    /// Linux: `kvfree`. FreeBSD: `free(9)`.
    ///
    /// # Safety
    ///
    /// `ptr` came from [`alloc_bytes`](Memory::alloc_bytes) of this host with
    /// this `layout`, and nothing uses it any more.
    unsafe fn free_bytes(&self, ptr: NonNull<u8>, layout: Layout);
}
