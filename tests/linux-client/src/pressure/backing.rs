//! The kernel changes what is behind the owner's memory while the guest checks it: it swaps,
//! migrates, compacts, gathers small pages into large ones and splits these; and the memory is
//! made of large pages, of files, or read-only.
use std::ffi::CString;
use std::fs;
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use super::checked::Checked;
use super::checker::{BASE, SLOT};
use super::map::{BOTH, HUGE, LARGE, PAGE, Place, counted, done, memory_file, punch, resize, tell};
use crate::node::same;
use crate::{Outcome, sys};

/// The first bytes of memory that can be swapped to (mkswap).
fn swap_header(pages: u32) -> Vec<u8> {
    let mut header = vec![0; PAGE];
    header[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    header[1028..1032].copy_from_slice(&(pages - 1).to_le_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    header
}

pub fn a_guest_finds_its_memory_again_that_was_swapped_out() -> Outcome {
    const DISC: &str = "/dev/ram0";
    const DISC_PAGES: u32 = 64 << 8;
    const ENOUGH: u64 = 200;
    same(
        "the disc in memory",
        sys::load("/brd.ko", "rd_nr=1 rd_size=65536"),
        Ok(()),
    )?;
    fs::write(DISC, swap_header(DISC_PAGES)).map_err(|error| format!("{DISC}: {error}"))?;
    let disc = CString::new(DISC).unwrap_or_default();
    // SAFETY: the name ends.
    done("swapon", unsafe { libc::swapon(disc.as_ptr(), 0) }.into())?;
    let memory = Place::fresh(LARGE / 2)?;
    let checked = Checked::new(2, &memory)?;
    let (out, back) = (counted("pswpout")?, counted("pswpin")?);
    let swapped = checked.meanwhile(|| {
        // Pages that were used a moment ago stay.
        for round in 0..100 {
            if round > 1 && counted("pswpin")? > back + ENOUGH {
                break;
            }
            memory.advise(0, memory.size(), libc::MADV_PAGEOUT)?;
            checked.all_is_seen(&memory)?;
            if round % 2 == 0 {
                // The child shares what is swapped out.
                let child = sys::fork(|| i32::from(checked.nothing_old(&memory).is_err()));
                same("a child", child.and_then(sys::wait), Ok(0))?;
            }
        }
        Ok(())
    });
    // SAFETY: the name ends.
    done("swapoff", unsafe { libc::swapoff(disc.as_ptr()) }.into())?;
    same("the disc goes", sys::unload("brd"), Ok(()))?;
    swapped?;
    let (out, back) = (counted("pswpout")? - out, counted("pswpin")? - back);
    same(
        &format!("{out} pages out, {back} in"),
        out > ENOUGH && back > ENOUGH,
        true,
    )
}

pub fn a_guest_does_not_notice_that_its_pages_migrate() -> Outcome {
    let memory = Place::fresh(LARGE / 2)?;
    let checked = Checked::new(2, &memory)?;
    checked.meanwhile(|| {
        for round in 0..4 {
            let arrived = memory.to_node(0, memory.size(), round % 2)?;
            if arrived * PAGE < memory.size() / 2 {
                return Err(format!("{arrived} pages are on node {}", round % 2));
            }
            if round % 4 == 0 {
                tell("/proc/sys/vm/compact_memory", "1")?;
            }
            checked.all_is_seen(&memory)?;
        }
        Ok(())
    })
}

/// Not in the C library's words yet.
const MADV_COLLAPSE: i32 = 25;

pub fn a_guest_does_not_notice_that_pages_are_gathered_and_split() -> Outcome {
    let memory = Place::fresh(6 * LARGE)?;
    memory.advise(0, LARGE, libc::MADV_NOHUGEPAGE)?;
    // Few pages of each: every page that the guest finds alone takes a while.
    let checked = Checked::new(2, &memory)?.sparse(8 * PAGE);
    let large = |count: u64| {
        let in_large = memory.kept("AnonHugePages")?;
        same("KiB in large pages", in_large, count * (LARGE as u64 >> 10))
    };
    checked.meanwhile(|| {
        for round in 0..2 {
            memory.advise(0, memory.size(), libc::MADV_HUGEPAGE)?;
            memory.advise(0, memory.size(), MADV_COLLAPSE)?;
            large(6)?;
            checked.all_is_seen(&memory)?;
            // Each large page is split in a way of its own.
            checked.zeros(true);
            checked.faults(true);
            memory.unmap(8 * PAGE, PAGE)?;
            checked.a_fault()?;
            memory.refresh(8 * PAGE, PAGE)?;
            memory.advise(LARGE + round * 8 * PAGE, PAGE, libc::MADV_DONTNEED)?;
            memory.protect(2 * LARGE, PAGE, libc::PROT_NONE)?;
            memory.protect(2 * LARGE, PAGE, BOTH)?;
            checked.rounds()?;
            checked.faults(false);
            memory.advise(3 * LARGE, LARGE / 2, libc::MADV_NOHUGEPAGE)?;
            let child = sys::fork(|| {
                thread::sleep(Duration::from_millis(20));
                0
            });
            memory.to_node(4 * LARGE, LARGE, 1)?;
            memory.advise(5 * LARGE, LARGE / 2, libc::MADV_PAGEOUT)?;
            checked.all_is_seen(&memory)?;
            same("a child", child.and_then(sys::wait), Ok(0))?;
            // Areas that were apart stay apart, and their pages with them.
            checked.zeros(true);
            memory.refresh(0, memory.size())?;
            memory.advise(0, LARGE, libc::MADV_NOHUGEPAGE)?;
            checked.all_is_seen(&memory)?;
        }
        Ok(())
    })
}

/// So many pages of 2 MiB are there for whoever asks. Those that somebody still refers to would
/// stay.
fn large_pages(count: u32) -> Outcome {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    tell(FILE, &count.to_string())?;
    let there = fs::read_to_string(FILE).map_err(|error| error.to_string())?;
    same("pages of 2 MiB", there.trim(), count.to_string().as_str())
}

/// A guest on large pages, which go and come back.
fn in_pages_of(page: usize, count: usize) -> Outcome {
    let memory = Place::in_pages_of(page, page * count)?;
    let checked = Checked::new(2, &memory)?.sparse(page / 512);
    checked.meanwhile(|| {
        let rounds = if page == LARGE { 3 } else { 1 };
        for _ in 0..rounds {
            checked.zeros(true);
            checked.faults(true);
            // While it is given back there may be no other one.
            memory.advise(0, page, libc::MADV_DONTNEED)?;
            checked.all_is_seen(&memory)?;
            memory.protect(0, page, libc::PROT_READ)?;
            checked.a_fault()?;
            memory.protect(0, page, BOTH)?;
            checked.rounds()?;
            checked.faults(false);
        }
        Ok(())
    })
}

pub fn a_guest_runs_on_pages_of_2_mib() -> Outcome {
    large_pages(8)?;
    let ran = in_pages_of(LARGE, 4);
    large_pages(0)?;
    ran
}

pub fn a_guest_runs_on_a_page_of_1_gib() -> Outcome {
    in_pages_of(HUGE, 1)
}

pub fn a_guest_sees_what_becomes_of_a_file_in_memory() -> Outcome {
    const SIZE: usize = 2 * LARGE;
    for flags in [0, libc::MFD_HUGETLB] {
        if flags != 0 {
            large_pages(4)?;
        }
        let file = memory_file(SIZE, flags)?;
        let memory = Place::of(&file, SIZE, BOTH, libc::MAP_SHARED)?;
        // Another view of the same: what the guest writes is in the file.
        let view = Place::of(&file, SIZE, BOTH, libc::MAP_SHARED)?;
        let checked = Checked::new(2, &memory)?;
        let ran = checked.meanwhile(|| {
            for round in 0..3 {
                checked.zeros(true);
                let hole = if flags == 0 { 16 * PAGE } else { LARGE };
                punch(&file, round % 2 * hole, hole)?;
                checked.all_is_seen(&view)?;
                checked.faults(true);
                resize(&file, LARGE)?;
                checked.a_fault()?;
                checked.zeros(true);
                resize(&file, SIZE)?;
                checked.rounds()?;
                checked.faults(false);
                checked.all_is_seen(&view)?;
            }
            Ok(())
        });
        drop((memory, view, checked, file));
        large_pages(0)?;
        ran.map_err(|why| format!("with flags {flags:#x}: {why}"))?;
    }
    Ok(())
}

pub fn a_guests_writes_to_a_private_mapping_stay_out_of_the_file() -> Outcome {
    const SIZE: usize = LARGE;
    let file = memory_file(SIZE, 0)?;
    let memory = Place::of(&file, SIZE, BOTH, libc::MAP_PRIVATE)?;
    let view = Place::of(&file, SIZE, libc::PROT_READ, libc::MAP_SHARED)?;
    let checked = Checked::new(2, &memory)?;
    checked.meanwhile(|| {
        for _ in 0..4 {
            checked.zeros(true);
            // Back to the file's own pages.
            memory.advise(0, SIZE, libc::MADV_DONTNEED)?;
            checked.all_is_seen(&memory)?;
        }
        for offset in (0..SIZE).step_by(PAGE) {
            same("a word of the file", view.word(offset), 0)?;
        }
        Ok(())
    })
}

pub fn a_guest_reads_what_the_owner_may_only_read_and_cannot_write_it() -> Outcome {
    const SIZE: usize = LARGE;
    let file = memory_file(SIZE, 0)?;
    let view = Place::of(&file, SIZE, BOTH, libc::MAP_SHARED)?;
    let memory = Place::of(&file, SIZE, libc::PROT_READ, libc::MAP_SHARED)?;
    // A slot that says it may be written: the guest's first write fails, and nothing is changed.
    let checked = Checked::new(1, &memory)?;
    checked.faults(true);
    let ran = checked.while_it_runs(&|_, _| 0, || {
        for _ in 0..20 {
            checked.a_fault()?;
        }
        for offset in (0..SIZE).step_by(PAGE) {
            same("a word", view.word(offset), 0)?;
        }
        memory.protect(0, SIZE, BOTH)?;
        checked.rounds()
    });
    ran?;
    drop(checked);
    // A slot that says it may not: the guest reads memory, and its writes are the owner's to do.
    let memory = Place::of(&file, SIZE, libc::PROT_READ, libc::MAP_SHARED)?;
    let slot = (SLOT, KVM_MEM_READONLY, BASE, SIZE as u64, memory.address());
    for offset in (0..SIZE).step_by(4) {
        view.set_word(offset, 0);
    }
    let checked = Checked::with(2, SIZE, slot)?.sparse(8 * PAGE);
    let device = |address: u64, value: Option<u32>| {
        let offset = (address - BASE) as usize;
        if let Some(value) = value {
            view.set_word(offset, value);
        }
        view.word(offset)
    };
    checked.meanwhile_with(&device, || {
        checked.zeros(true);
        punch(&file, 0, SIZE / 2)?;
        checked.all_is_seen(&memory)
    })
}
