//! The address space of a process that owns a VM.
//!
//! A space is a list of extents: runs of pages with consecutive frames and the
//! same properties. Unmapping or protecting a part cuts an extent, and a page
//! is part of a large one only as far as its extent reaches: so cutting lowers
//! the mapping level around the cut, as on a real host.
//!
//! Under loom the list has versions, and looking a page up is one relaxed load
//! of the version's number. So a model tries the look-up before and after each
//! change and, where nothing orders the two, also a stale one, as on a host
//! that walks its page tables without locks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use waterbear_hal::addr::PAGE_SHIFT;
use waterbear_hal::sync::atomic::{AtomicUsize, Ordering};
use waterbear_hal::{Hva, Level, Pfn, ResolveError};

use crate::sys::book;
use crate::{Machine, Mock};

/// How memory is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapOptions {
    /// Whether the process may write.
    pub writable: bool,
    /// The largest level at which the host maps it, where alignment and
    /// contiguity allow it.
    pub level: Level,
    /// Whether it is reached past the caches, as a device's memory is.
    pub uncached: bool,
}

impl Default for MapOptions {
    /// Writable, in pages of 4 KiB.
    fn default() -> Self {
        Self::WRITABLE
    }
}

impl MapOptions {
    /// Writable, in pages of 4 KiB.
    pub const WRITABLE: Self = Self {
        writable: true,
        level: Level::L1,
        uncached: false,
    };
    /// Read-only, in pages of 4 KiB.
    pub const READ_ONLY: Self = Self {
        writable: false,
        ..Self::WRITABLE
    };
    /// Writable, in pages of 4 KiB, a device's.
    pub const UNCACHED: Self = Self {
        uncached: true,
        ..Self::WRITABLE
    };

    /// The same with pages up to `level`.
    pub const fn up_to(mut self, level: Level) -> Self {
        self.level = level;
        self
    }
}

#[derive(Clone, Copy)]
struct Extent {
    pages: u64,
    pfn: Pfn,
    options: MapOptions,
    poisoned: bool,
}

/// Extents by the number of their first page.
#[derive(Clone, Default)]
struct Extents(BTreeMap<u64, Extent>);

/// A page that was found.
pub(crate) struct Found {
    pub(crate) pfn: Pfn,
    pub(crate) writable: bool,
    pub(crate) uncached: bool,
    pub(crate) level: Level,
    pub(crate) poisoned: bool,
}

impl Extents {
    fn find(&self, page: u64) -> Option<Found> {
        let (&start, extent) = self.0.range(..=page).next_back()?;
        let end = start + extent.pages;
        if page >= end {
            return None;
        }
        let offset = |of: u64, level: Level| of & (level.pages() - 1);
        let fits = |&level: &Level| {
            let first = page - offset(page, level);
            level <= extent.options.level
                && offset(start, level) == offset(extent.pfn.0, level)
                && first >= start
                && first + level.pages() <= end
        };
        let level = Level::LEAVES.into_iter().rev().find(fits);
        Some(Found {
            pfn: extent.pfn.add(page - start),
            writable: extent.options.writable,
            uncached: extent.options.uncached,
            level: level.unwrap_or(Level::L1),
            poisoned: extent.poisoned,
        })
    }

    /// Cuts extents so that one begins at `page`, unless nothing is there.
    fn cut(&mut self, page: u64) {
        let Some((&start, extent)) = self.0.range_mut(..page).next_back() else {
            return;
        };
        let keep = page - start;
        if keep >= extent.pages {
            return;
        }
        let mut rest = *extent;
        rest.pages -= keep;
        rest.pfn = rest.pfn.add(keep);
        extent.pages = keep;
        self.0.insert(page, rest);
    }

    /// Changes or removes whatever lies in the range, and nothing else.
    fn change(&mut self, first: u64, pages: u64, mut keep: impl FnMut(&mut Extent) -> bool) {
        self.cut(first);
        self.cut(first + pages);
        let inside: Vec<u64> = self
            .0
            .range(first..first + pages)
            .map(|(&at, _)| at)
            .collect();
        for at in inside {
            if !self.0.get_mut(&at).is_some_and(&mut keep) {
                self.0.remove(&at);
            }
        }
    }

    fn maps(&self, pfn: Pfn) -> bool {
        let inside = |e: &Extent| (e.pfn.0..e.pfn.0 + e.pages).contains(&pfn.0);
        self.0.values().any(inside)
    }
}

/// Something that runs inside a look-up.
type Hook = Box<dyn FnMut(Hva) + Send>;

pub(crate) struct Inner {
    versions: Mutex<Vec<Arc<Extents>>>,
    current: AtomicUsize,
    fail_next: Mutex<Option<ResolveError>>,
    before: Mutex<Option<Hook>>,
    after: Mutex<Option<Hook>>,
}

impl Inner {
    pub(crate) fn maps(&self, pfn: Pfn) -> bool {
        book(&self.versions).last().is_some_and(|e| e.maps(pfn))
    }

    fn update(&self, change: impl FnOnce(&mut Extents)) {
        let number = {
            let mut versions = book(&self.versions);
            let mut next = versions
                .last()
                .map_or_else(Extents::default, |e| (**e).clone());
            change(&mut next);
            if cfg!(loom) {
                versions.push(Arc::new(next));
            } else {
                *versions = vec![Arc::new(next)];
            }
            versions.len() - 1
        };
        // A reader that is ordered after this sees the change.
        self.current.store(number, Ordering::Relaxed);
    }

    pub(crate) fn find(&self, hva: Hva) -> Option<Found> {
        let number = self.current.load(Ordering::Relaxed);
        let extents = book(&self.versions).get(number).cloned()?;
        extents.find(hva.0 >> PAGE_SHIFT)
    }

    /// The failure that a test asked for.
    pub(crate) fn injected(&self) -> Option<ResolveError> {
        book(&self.fail_next).take()
    }

    /// Whether a test wants to fail or see the next look-up.
    pub(crate) fn is_watched(&self) -> bool {
        let hooked = |hook: &Mutex<Option<Hook>>| book(hook).is_some();
        book(&self.fail_next).is_some() || hooked(&self.before) || hooked(&self.after)
    }

    pub(crate) fn run_before(&self, hva: Hva) {
        run(&self.before, hva);
    }

    pub(crate) fn run_after(&self, hva: Hva) {
        run(&self.after, hva);
    }
}

/// Runs a hook. While it runs there is none, so it may cause look-ups.
fn run(hook: &Mutex<Option<Hook>>, hva: Hva) {
    let taken = book(hook).take();
    if let Some(mut f) = taken {
        f(hva);
        book(hook).get_or_insert(f);
    }
}

/// A handle to an address space.
#[derive(Clone)]
pub struct Space {
    machine: Arc<Machine>,
    pub(crate) inner: Arc<Inner>,
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// A process without memory.
    pub fn new_space(&self) -> Space {
        let inner = Arc::new(Inner {
            versions: Mutex::new(vec![Arc::default()]),
            current: AtomicUsize::new(0),
            fail_next: Mutex::default(),
            before: Mutex::default(),
            after: Mutex::default(),
        });
        let mut spaces = book(&self.0.pages.spaces);
        spaces.retain(|space| space.strong_count() > 0);
        spaces.push(Arc::downgrade(&inner));
        Space {
            machine: Arc::clone(&self.0),
            inner,
        }
    }
}

fn page(hva: Hva) -> u64 {
    assert!(hva.0.trailing_zeros() >= PAGE_SHIFT, "{hva:?} is no page");
    hva.0 >> PAGE_SHIFT
}

impl Space {
    /// Maps fresh pages at `hva`, in place of what was there, and returns the
    /// first one's frame. The frames are consecutive, and aligned like `hva`
    /// as far as `options.level` asks.
    #[track_caller]
    pub fn map(&self, hva: Hva, pages: u64, options: MapOptions) -> Pfn {
        let pfn = self.machine.pages.alloc(page(hva), pages, options.level);
        self.map_to(hva, pages, pfn, options);
        pfn
    }

    /// Maps the given pages at `hva`, in place of what was there.
    #[track_caller]
    pub fn map_to(&self, hva: Hva, pages: u64, pfn: Pfn, options: MapOptions) {
        let first = page(hva);
        self.inner.update(|extents| {
            extents.change(first, pages, |_| false);
            let extent = Extent {
                pages,
                pfn,
                options,
                poisoned: false,
            };
            extents.0.insert(first, extent);
        });
    }

    /// Unmaps. The host has the pages back as soon as nobody references them.
    #[track_caller]
    pub fn unmap(&self, hva: Hva, pages: u64) {
        let first = page(hva);
        self.inner
            .update(|extents| extents.change(first, pages, |_| false));
    }

    /// Changes whether the process may write.
    #[track_caller]
    pub fn protect(&self, hva: Hva, pages: u64, writable: bool) {
        self.adjust(hva, pages, |extent| extent.options.writable = writable);
    }

    /// Changes the largest level at which the host maps the range, as when it
    /// splits a large page.
    #[track_caller]
    pub fn limit_level(&self, hva: Hva, pages: u64, level: Level) {
        self.adjust(hva, pages, |extent| extent.options.level = level);
    }

    /// Makes the memory fail in hardware.
    #[track_caller]
    pub fn poison(&self, hva: Hva, pages: u64) {
        self.adjust(hva, pages, |extent| extent.poisoned = true);
    }

    #[track_caller]
    fn adjust(&self, hva: Hva, pages: u64, change: impl Fn(&mut Extent)) {
        let first = page(hva);
        self.inner.update(|extents| {
            extents.change(first, pages, |extent| {
                change(extent);
                true
            });
        });
    }

    /// The page that is mapped at `hva`, without taking a reference.
    pub fn lookup(&self, hva: Hva) -> Option<Pfn> {
        self.inner.find(hva).map(|found| found.pfn)
    }

    /// Makes the next `resolve`, or access to bytes, fail with `error`.
    pub fn fail_next_resolve(&self, error: ResolveError) {
        *book(&self.inner.fail_next) = Some(error);
    }

    /// Runs `hook` in each `resolve`, after the page was found and referenced
    /// and before the caller gets it: where an invalidation races a fault.
    /// While it runs it is switched off. A hook that owns a handle to this space
    /// keeps it alive until [`clear_hooks`](Self::clear_hooks).
    pub fn on_resolve(&self, hook: impl FnMut(Hva) + Send + 'static) {
        *book(&self.inner.after) = Some(Box::new(hook));
    }

    /// Runs `hook` before a page is looked up, in each `resolve` and for each
    /// page of an access to bytes, for example to break a copy-on-write page.
    pub fn before_resolve(&self, hook: impl FnMut(Hva) + Send + 'static) {
        *book(&self.inner.before) = Some(Box::new(hook));
    }

    /// Runs `hook` in the next access to bytes, or the next `resolve`, before
    /// the page is looked up.
    pub fn on_next_access(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hook = Some(hook);
        self.before_resolve(move |_| {
            if let Some(hook) = hook.take() {
                hook();
            }
        });
    }

    /// Takes all hooks away.
    pub fn clear_hooks(&self) {
        drop(book(&self.inner.before).take());
        drop(book(&self.inner.after).take());
    }

    /// Runs `hook` in the next `resolve` only; see
    /// [`on_resolve`](Self::on_resolve).
    pub fn on_next_resolve(&self, hook: impl FnOnce(Hva) + Send + 'static) {
        let mut hook = Some(hook);
        self.on_resolve(move |hva| {
            if let Some(hook) = hook.take() {
                hook(hva);
            }
        });
    }
}
