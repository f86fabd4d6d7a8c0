//! User addresses to data pages, and to the bytes in them.

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{BellError, HostPage, Hva, Pfn, ResolveError, User, Width};

use crate::bell::Bell;
use crate::space::Space;
use crate::{Mock, broken};

impl<const NOTIFIER: bool> User for Mock<NOTIFIER> {
    const HAS_NOTIFIER: bool = NOTIFIER;

    type Space = Space;

    #[track_caller]
    fn resolve(&self, space: &Space, hva: Hva, write: bool) -> Result<HostPage, ResolveError> {
        self.0.may_sleep("resolve");
        if let Some(error) = space.inner.injected() {
            return Err(error);
        }
        space.inner.run_before(hva);
        let found = space.inner.find(hva).ok_or(ResolveError::Fault)?;
        if found.poisoned {
            return Err(ResolveError::Poisoned);
        }
        if write && !found.writable {
            return Err(ResolveError::Fault);
        }
        self.0.pages.reference(found.pfn);
        space.inner.run_after(hva);
        Ok(HostPage {
            pfn: found.pfn,
            writable: found.writable,
            uncached: found.uncached,
            level: found.level,
        })
    }

    #[track_caller]
    fn resolve_now(&self, space: &Space, hva: Hva, write: bool) -> Option<HostPage> {
        let found = space.inner.find(hva)?;
        // What a test does in a look-up may sleep.
        if !NOTIFIER || space.inner.is_watched() || found.poisoned || (write && !found.writable) {
            return None;
        }
        self.0.pages.reference(found.pfn);
        self.0.pages.release(found.pfn, found.writable);
        Some(HostPage {
            pfn: found.pfn,
            writable: found.writable,
            uncached: found.uncached,
            level: found.level,
        })
    }

    #[track_caller]
    fn release(&self, pfn: Pfn, dirty: bool) {
        self.0.needs_irqs_on("release");
        self.0.pages.release(pfn, dirty);
    }

    #[track_caller]
    fn read(&self, space: &Space, hva: Hva, buf: &mut [u8]) -> Result<(), ResolveError> {
        self.0.may_sleep("read");
        self.each_page(space, hva, buf.len(), false, |pfn, offset, from, len| {
            let part = &mut buf[from..from + len];
            self.0.pages.read(pfn, offset, part);
        })
    }

    #[track_caller]
    fn read_now(&self, space: &Space, places: &[Hva], words: &mut [u64]) -> bool {
        // What a test does in a look-up may sleep.
        if space.inner.is_watched() {
            return false;
        }
        places.iter().zip(words).all(|(&hva, word)| {
            let mut bytes = [0; 8];
            let offset = (hva.0 % PAGE_SIZE) as usize;
            if offset + bytes.len() > PAGE_SIZE as usize {
                broken!("read_now at {hva:?}: two pages");
            }
            match space.inner.find(hva) {
                Some(found) if !found.poisoned => {
                    self.0.pages.read(found.pfn, offset, &mut bytes);
                    *word = u64::from_le_bytes(bytes);
                    true
                }
                _ => false,
            }
        })
    }

    #[track_caller]
    fn write(&self, space: &Space, hva: Hva, bytes: &[u8]) -> Result<(), ResolveError> {
        self.0.may_sleep("write");
        self.each_page(space, hva, bytes.len(), true, |pfn, offset, from, len| {
            let part = &bytes[from..from + len];
            self.0
                .pages
                .change(pfn, offset, len, |place| place.copy_from_slice(part));
        })
    }

    #[track_caller]
    fn compare_exchange(
        &self,
        space: &Space,
        hva: Hva,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, ResolveError> {
        self.0.may_sleep("compare_exchange");
        let bytes = width.bytes();
        if !hva.0.is_multiple_of(bytes as u64) {
            broken!("compare_exchange of {bytes} bytes at {hva:?}, which is not aligned");
        }
        let mut seen = 0;
        self.each_page(space, hva, bytes, true, |pfn, offset, _from, _len| {
            seen = self.0.pages.change(pfn, offset, bytes, |place| {
                let mut was = [0; 8];
                was[..bytes].copy_from_slice(place);
                let was = u64::from_le_bytes(was);
                if was == old & width.mask() {
                    place.copy_from_slice(&new.to_le_bytes()[..bytes]);
                }
                was
            });
        })?;
        Ok(seen)
    }

    const HAS_BELLS: bool = true;

    type Bell = Bell;

    #[track_caller]
    fn bell(&self, descriptor: i32) -> Result<Bell, BellError> {
        self.find_bell(descriptor)
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// Runs `access` on each page of a range of `len` bytes, as frame, offset
    /// in it, offset in the range and number of bytes, until one is missing.
    fn each_page(
        &self,
        space: &Space,
        hva: Hva,
        len: usize,
        write: bool,
        mut access: impl FnMut(Pfn, usize, usize, usize),
    ) -> Result<(), ResolveError> {
        if let Some(error) = space.inner.injected() {
            return Err(error);
        }
        let mut done = 0;
        while done < len {
            let at = hva.0.checked_add(done as u64).ok_or(ResolveError::Fault)?;
            let offset = (at % PAGE_SIZE) as usize;
            let part = (len - done).min(PAGE_SIZE as usize - offset);
            space.inner.run_before(Hva(at));
            let found = space.inner.find(Hva(at)).ok_or(ResolveError::Fault)?;
            if found.poisoned {
                return Err(ResolveError::Poisoned);
            }
            if write && !found.writable {
                return Err(ResolveError::Fault);
            }
            access(found.pfn, offset, done, part);
            done += part;
        }
        Ok(())
    }
}
