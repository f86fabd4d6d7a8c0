//! Memory of this process, and what the kernel is asked to do with it.
use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use crate::sys::{self, errno};

/// What a leaf of the middle level maps, and one of the level above it.
pub const LARGE: usize = 2 << 20;
pub const HUGE: usize = 1 << 30;
pub const PAGE: usize = 4096;

pub const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
const FRESH: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// A place of this process's, with whatever is mapped there. It begins at a multiple of 2 MiB.
pub struct Place {
    at: u64,
    size: usize,
    around: (u64, usize),
}

fn failed(what: &str) -> String {
    format!("{what}: error {}", errno())
}

/// What a call returns that says nothing but whether it worked.
pub fn done(what: &str, result: i64) -> Result<(), String> {
    if result < 0 {
        Err(failed(what))
    } else {
        Ok(())
    }
}

/// Maps something over what is at an address.
fn map(
    at: u64,
    size: usize,
    rights: i32,
    flags: i32,
    fd: i32,
    offset: usize,
) -> Result<(), String> {
    let flags = flags | libc::MAP_FIXED;
    // SAFETY: only places of ours are replaced, whose content nobody borrows.
    let got = unsafe { libc::mmap(at as *mut c_void, size, rights, flags, fd, offset as i64) };
    if got == libc::MAP_FAILED {
        return Err(failed("mapping"));
    }
    Ok(())
}

impl Place {
    /// So many bytes of nothing.
    fn reserved(size: usize) -> Result<Self, String> {
        // With a hole on either side, so that nothing merges with it.
        let around = size + 2 * LARGE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), around, libc::PROT_NONE, FRESH, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(failed("reserving"));
        }
        let start = start as u64;
        Ok(Self {
            at: (start + 1).next_multiple_of(LARGE as u64),
            size,
            around: (start, around),
        })
    }

    /// Fresh memory.
    pub fn fresh(size: usize) -> Result<Self, String> {
        let place = Self::reserved(size)?;
        place.refresh(0, size)?;
        Ok(place)
    }

    /// What a descriptor maps: `flags` are those of mmap.
    pub fn of(fd: &impl AsRawFd, size: usize, rights: i32, flags: i32) -> Result<Self, String> {
        let place = Self::reserved(size)?;
        map(place.at, size, rights, flags, fd.as_raw_fd(), 0)?;
        Ok(place)
    }

    /// Memory in large pages of so many bytes.
    pub fn in_pages_of(page: usize, size: usize) -> Result<Self, String> {
        // A place for any alignment.
        let mut place = Self::reserved(size + page)?;
        place.at = place.at.next_multiple_of(page as u64);
        place.size = size;
        let kind = (page.trailing_zeros() as i32) << libc::MAP_HUGE_SHIFT;
        map(
            place.at,
            size,
            BOTH,
            FRESH | libc::MAP_HUGETLB | kind,
            -1,
            0,
        )?;
        Ok(place)
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.size
    }

    fn pointer(&self, offset: usize) -> *mut c_void {
        assert!(offset <= self.size);
        (self.at as *mut c_void).wrapping_byte_add(offset)
    }

    /// Reads a word. Whoever asks knows that there is memory.
    pub fn word(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= self.size && offset.is_multiple_of(4));
        // SAFETY: ours, in bounds, aligned; others write it as one access.
        unsafe { self.pointer(offset).cast::<u32>().read_volatile() }
    }

    /// Writes a word. Whoever asks knows that there is memory.
    pub fn set_word(&self, offset: usize, word: u32) {
        assert!(offset + 4 <= self.size && offset.is_multiple_of(4));
        // SAFETY: as above.
        unsafe { self.pointer(offset).cast::<u32>().write_volatile(word) }
    }

    /// Puts fresh memory over a part.
    pub fn refresh(&self, offset: usize, size: usize) -> Result<(), String> {
        assert!(offset + size <= self.size);
        map(self.at + offset as u64, size, BOTH, FRESH, -1, 0)
    }

    /// Takes a part away.
    pub fn unmap(&self, offset: usize, size: usize) -> Result<(), String> {
        assert!(offset + size <= self.size);
        // SAFETY: ours, and nobody borrows it.
        let result = unsafe { libc::munmap(self.pointer(offset), size) };
        done("munmap", result.into())
    }

    pub fn advise(&self, offset: usize, size: usize, advice: i32) -> Result<(), String> {
        assert!(offset + size <= self.size);
        // SAFETY: as above.
        let result = unsafe { libc::madvise(self.pointer(offset), size, advice) };
        done(&format!("madvise {advice}"), result.into())
    }

    pub fn protect(&self, offset: usize, size: usize, rights: i32) -> Result<(), String> {
        assert!(offset + size <= self.size);
        // SAFETY: as above.
        let result = unsafe { libc::mprotect(self.pointer(offset), size, rights) };
        done("mprotect", result.into())
    }

    /// Moves a part to the same offset of another place, which loses what it had there. What is
    /// left here is a hole, or fresh memory if `leave`.
    pub fn move_to(
        &self,
        to: &Self,
        offset: usize,
        size: usize,
        leave: bool,
    ) -> Result<(), String> {
        assert!(offset + size <= self.size && offset + size <= to.size);
        let mut flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        if leave {
            flags |= libc::MREMAP_DONTUNMAP;
        }
        // SAFETY: both are ours, and nobody borrows them.
        let got =
            unsafe { libc::mremap(self.pointer(offset), size, size, flags, to.pointer(offset)) };
        if got == libc::MAP_FAILED {
            return Err(failed("mremap"));
        }
        Ok(())
    }

    /// Moves the pages of a part to a node; says how many have arrived.
    pub fn to_node(&self, offset: usize, size: usize, node: i32) -> Result<usize, String> {
        const MPOL_MF_MOVE_ALL: i32 = 4;
        let pages: Vec<_> = (offset..offset + size)
            .step_by(PAGE)
            .map(|o| self.pointer(o))
            .collect();
        let nodes = vec![node; pages.len()];
        let mut states = vec![-1; pages.len()];
        // SAFETY: three arrays of that many entries.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages.len(),
                pages.as_ptr(),
                nodes.as_ptr(),
                states.as_mut_ptr(),
                MPOL_MF_MOVE_ALL,
            )
        };
        done("move_pages", result)?;
        Ok(states.iter().filter(|state| **state == node).count())
    }

    /// How many KiB of it the kernel maps or keeps in some way, by the name in `smaps`.
    pub fn kept(&self, name: &str) -> Result<u64, String> {
        let smaps = fs::read_to_string("/proc/self/smaps").map_err(|error| error.to_string())?;
        let mut inside = false;
        let mut sum = 0;
        for line in smaps.lines() {
            let first = line.split([' ', '-']).next().unwrap_or_default();
            if let Ok(start) = u64::from_str_radix(first, 16) {
                inside = (self.at..self.at + self.size as u64).contains(&start);
            } else if inside && let Some(rest) = line.strip_prefix(name) {
                let number = rest.trim_start_matches(':').trim().trim_end_matches(" kB");
                sum += number
                    .parse::<u64>()
                    .map_err(|error| format!("{line}: {error}"))?;
            }
        }
        Ok(sum)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (start, size) = self.around;
        // SAFETY: ours; nobody borrows it.
        unsafe { libc::munmap(start as *mut c_void, size) };
    }
}

/// A file in memory.
pub fn memory_file(size: usize, flags: u32) -> Result<OwnedFd, String> {
    // SAFETY: the name ends.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), flags) };
    done("memfd_create", fd.into())?;
    let file = sys::owned(fd);
    resize(&file, size)?;
    Ok(file)
}

/// Cuts a file short, or makes it longer.
pub fn resize(file: &OwnedFd, size: usize) -> Result<(), String> {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::ftruncate(file.as_raw_fd(), size as i64) };
    done("ftruncate", result.into())
}

/// Makes a hole in a file.
pub fn punch(file: &OwnedFd, offset: usize, size: usize) -> Result<(), String> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is involved.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, size as i64) };
    done("fallocate", result.into())
}

/// Writes to one of the kernel's own files.
pub fn tell(file: &str, words: &str) -> Result<(), String> {
    fs::write(file, words).map_err(|error| format!("{file}: {error}"))
}

/// A count of the kernel's in `/proc/vmstat`.
pub fn counted(name: &str) -> Result<u64, String> {
    let text = fs::read_to_string("/proc/vmstat").map_err(|error| error.to_string())?;
    let mut fields = text.lines().filter_map(|line| line.split_once(' '));
    let found = fields.find(|(key, _)| *key == name);
    let (_, value) = found.ok_or_else(|| format!("no {name}"))?;
    value
        .trim()
        .parse()
        .map_err(|error| format!("{name}: {error}"))
}
