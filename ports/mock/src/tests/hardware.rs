//! The page walker and the TLB.

use waterbear_hal::{Gpa, Level, Memory, Pfn};

use super::{free, read, write};
use crate::hw::{Access, Decoded, FaultKind, Format, RawLeaf, Tlb, Walker};
use crate::{DATA_BASE, MockHost};

const EPT: Format = Format::Ept {
    ad: true,
    exec_only: true,
};
const PLAIN_EPT: Format = Format::Ept {
    ad: false,
    exec_only: false,
};
const DATA: Pfn = DATA_BASE;

fn leaf(format: Format, level: Level, allows: Access) -> u64 {
    format.leaf(RawLeaf {
        pfn: DATA,
        level,
        allows,
    })
}

fn is_broken(format: Format, entry: u64, level: Level) -> bool {
    format.decode(entry, level, 46) == Decoded::Broken
}

/// A chain of tables from `top` down to `bottom` for address 0.
fn chain(host: &MockHost, format: Format, top: Level, bottom: Level) -> Vec<Pfn> {
    let mut tables = vec![host.alloc_table().unwrap()];
    let mut level = top;
    while level > bottom {
        let below = host.alloc_table().unwrap();
        write(host, *tables.last().unwrap(), 0, format.link(below));
        tables.push(below);
        level = level.below().unwrap();
    }
    tables
}

#[test]
fn ept_misconfigurations() {
    let l1 = |format, bits| is_broken(format, DATA.hpa().0 | 6 << 3 | bits, Level::L1);
    assert!(!l1(EPT, 0b001) && !l1(EPT, 0b111) && !l1(EPT, 0b101) && !l1(EPT, 0b011));
    assert!(l1(EPT, 0b010), "W without R");
    assert!(l1(EPT, 0b110), "W and X without R");
    assert!(!l1(EPT, 0b100), "X alone where the CPU can");
    assert!(l1(PLAIN_EPT, 0b100), "X alone where it cannot");
    assert!(!l1(EPT, 0b001 | 1 << 7), "bit 7 is ignored at level 1");
    for memory_type in 0..8 {
        let broken = is_broken(EPT, DATA.hpa().0 | memory_type << 3 | 1, Level::L1);
        assert_eq!(broken, [2, 3, 7].contains(&memory_type));
    }
    assert!(l1(EPT, 1 | 1 << 46), "beyond the physical address width");
    assert!(!l1(EPT, 1 | 1 << 63 | 1 << 52), "ignored bits");
    let table = EPT.link(Pfn(1));
    for level in [Level::L2, Level::L3, Level::L4, Level::L5] {
        assert!(!is_broken(EPT, table | 1 << 8, level));
        for bit in 3..7 {
            assert!(is_broken(EPT, table | 1 << bit, level));
        }
    }
    assert!(
        is_broken(EPT, table | 1 << 7, Level::L4),
        "no leaf at level 4"
    );
    let large = leaf(EPT, Level::L2, Access::ALL);
    assert!(!is_broken(EPT, large, Level::L2));
    assert!(is_broken(EPT, large | 1 << 12, Level::L2));
    assert!(is_broken(EPT, large | 1 << 21, Level::L3));
    assert_eq!(EPT.decode(1 << 46, Level::L1, 46), Decoded::NotPresent);
}

#[test]
fn npt_reserved_bits() {
    let link = Format::Npt.link(Pfn(1));
    for level in [Level::L2, Level::L3, Level::L4, Level::L5] {
        assert!(!is_broken(Format::Npt, link, level));
    }
    assert!(is_broken(Format::Npt, link | 1 << 7, Level::L4));
    assert!(is_broken(Format::Npt, link | 1 << 7, Level::L5));
    assert!(is_broken(Format::Npt, link | 1 << 8, Level::L4));
    assert!(is_broken(Format::Npt, link | 1 << 8, Level::L3));
    assert!(!is_broken(Format::Npt, link | 1 << 8, Level::L2));
    assert!(is_broken(Format::Npt, link | 1 << 51, Level::L2));
    let large = leaf(Format::Npt, Level::L2, Access::ALL);
    assert!(!is_broken(Format::Npt, large | 1 << 12, Level::L2), "PAT");
    assert!(is_broken(Format::Npt, large | 1 << 13, Level::L2));
}

#[test]
fn an_npt_walk_is_a_user_access_at_every_level() {
    let host = MockHost::new();
    let walker = Walker::new(Format::Npt, Level::L4);
    let tables = chain(&host, Format::Npt, Level::L4, Level::L1);
    write(
        &host,
        tables[3],
        0,
        leaf(Format::Npt, Level::L1, Access::ALL),
    );
    let access = |wanted| walker.translate(&host, tables[0], Gpa(0x123), wanted);
    assert_eq!(access(Access::WRITE).unwrap().pfn, DATA);
    for &table in &tables {
        let entry = read(&host, table, 0);
        write(&host, table, 0, entry & !(1 << 2));
        let fault = access(Access::READ).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Denied);
        assert_eq!(fault.npf_error_code(), 1 << 32 | 0b101);
        write(&host, table, 0, entry | 1 << 63);
        let fault = access(Access::EXEC).unwrap_err();
        assert_eq!(fault.npf_error_code(), 1 << 32 | 0b10101);
        write(&host, table, 0, entry);
    }
    write(&host, tables[1], 0, Format::Npt.link(tables[2]) | 1 << 8);
    let fault = access(Access::READ).unwrap_err();
    assert_eq!((fault.kind, fault.level), (FaultKind::Broken, Level::L3));
    assert_eq!(fault.npf_error_code(), 1 << 32 | 0b1101);
}

#[test]
fn accessed_and_dirty_bits_are_set_as_the_walk_needs_them() {
    for format in [EPT, Format::Npt] {
        let host = MockHost::new();
        let walker = Walker::new(format, Level::L3);
        let tables = chain(&host, format, Level::L3, Level::L2);
        write(&host, tables[1], 0, leaf(format, Level::L2, Access::ALL));
        let entry = |i: usize| read(&host, tables[i], 0);
        let found = walker.translate(&host, tables[0], Gpa(0x3000), Access::READ);
        let found = found.unwrap();
        assert_eq!((found.pfn, found.level), (DATA.add(3), Level::L2));
        assert!(!found.dirty);
        assert_eq!(entry(0) & format.accessed(), format.accessed());
        assert_eq!(entry(0) & format.dirty(), 0);
        assert_eq!(entry(1) & format.dirty(), 0);
        let found = walker.translate(&host, tables[0], Gpa(0), Access::WRITE);
        assert!(found.unwrap().dirty);
        assert_eq!(entry(0) & format.dirty(), 0);
        assert_eq!(entry(1) & format.dirty(), format.dirty());
    }
}

#[test]
fn without_accessed_and_dirty_flags_nothing_is_written() {
    let host = MockHost::new();
    let walker = Walker::new(PLAIN_EPT, Level::L1);
    let table = host.alloc_table().unwrap();
    let entry = leaf(PLAIN_EPT, Level::L1, Access::ALL);
    write(&host, table, 0, entry);
    let found = walker.translate(&host, table, Gpa(0), Access::WRITE);
    assert!(found.unwrap().dirty);
    assert_eq!(read(&host, table, 0), entry);
}

#[test]
fn an_ept_violation_says_what_was_wanted_and_what_is_allowed() {
    let host = MockHost::new();
    let walker = Walker::new(EPT, Level::L2);
    let tables = chain(&host, EPT, Level::L2, Level::L1);
    let read_only = Access::new(true, false, true);
    write(&host, tables[1], 0, leaf(EPT, Level::L1, read_only));
    let fault = walker.translate(&host, tables[0], Gpa(0), Access::WRITE);
    assert_eq!(
        fault.unwrap_err().ept_qualification(),
        Some(0b1_1010_1010 | 1 << 7)
    );
    let fault = walker.translate(&host, tables[0], Gpa(0x1000), Access::READ);
    assert_eq!(fault.unwrap_err().ept_qualification(), Some(0b1_1000_0001));
    let beyond = Gpa(1 << 30);
    let fault = walker.translate(&host, tables[0], beyond, Access::READ);
    assert_eq!(fault.unwrap_err().kind, FaultKind::NotPresent);
}

#[test]
fn a_flush_that_is_missing_shows() {
    for format in [EPT, Format::Npt] {
        let host = MockHost::new();
        let mut tlb = Tlb::new(Walker::new(format, Level::L2));
        let tables = chain(&host, format, Level::L2, Level::L1);
        write(&host, tables[1], 0, leaf(format, Level::L1, Access::ALL));
        assert_eq!(
            tlb.access(&host, tables[0], Gpa(0), Access::WRITE),
            Ok(DATA)
        );
        write(&host, tables[1], 0, 0);
        assert_eq!(
            tlb.access(&host, tables[0], Gpa(0), Access::WRITE),
            Ok(DATA)
        );
        tlb.flush();
        let fault = tlb.access(&host, tables[0], Gpa(0), Access::WRITE);
        assert_eq!(fault.unwrap_err().kind, FaultKind::NotPresent);
    }
}

#[test]
fn a_clean_translation_goes_back_to_memory_for_the_first_write() {
    let host = MockHost::new();
    let mut tlb = Tlb::new(Walker::new(EPT, Level::L1));
    let table = host.alloc_table().unwrap();
    write(&host, table, 0, leaf(EPT, Level::L1, Access::ALL));
    let dirty = || read(&host, table, 0) & EPT.dirty() != 0;
    tlb.access(&host, table, Gpa(0), Access::READ).unwrap();
    assert!(!dirty());
    tlb.access(&host, table, Gpa(0), Access::WRITE).unwrap();
    assert!(dirty());
    // Cleared without a flush, the bit is not set again.
    let entry = read(&host, table, 0);
    write(&host, table, 0, entry & !EPT.dirty());
    tlb.access(&host, table, Gpa(0), Access::WRITE).unwrap();
    assert!(!dirty());
}

#[test]
fn a_fault_forgets_what_was_cached_for_the_address() {
    let host = MockHost::new();
    let mut tlb = Tlb::new(Walker::new(EPT, Level::L2));
    let tables = chain(&host, EPT, Level::L2, Level::L1);
    let read_only = Access::new(true, false, false);
    write(&host, tables[1], 0, leaf(EPT, Level::L1, read_only));
    tlb.access(&host, tables[0], Gpa(0), Access::READ).unwrap();
    let fault = tlb.access(&host, tables[0], Gpa(0), Access::WRITE);
    assert_eq!(fault.unwrap_err().kind, FaultKind::Denied);
    write(&host, tables[1], 0, leaf(EPT, Level::L1, Access::ALL));
    tlb.access(&host, tables[0], Gpa(0), Access::WRITE).unwrap();
}

#[test]
#[should_panic(expected = "hardware walks the freed page table")]
fn a_cached_table_that_was_freed_too_early_is_found() {
    let host = MockHost::new();
    let mut tlb = Tlb::new(Walker::new(EPT, Level::L2));
    let tables = chain(&host, EPT, Level::L2, Level::L1);
    write(&host, tables[1], 0, leaf(EPT, Level::L1, Access::ALL));
    tlb.access(&host, tables[0], Gpa(0), Access::READ).unwrap();
    write(&host, tables[0], 0, 0);
    free(&host, tables[1]);
    let _ = tlb.access(&host, tables[0], Gpa(0x1000), Access::READ);
}

#[test]
fn ept_caches_belong_to_a_root_and_npt_caches_do_not() {
    for (format, stale) in [(EPT, false), (Format::Npt, true)] {
        let host = MockHost::new();
        let mut tlb = Tlb::new(Walker::new(format, Level::L1));
        let (old, new) = (host.alloc_table().unwrap(), host.alloc_table().unwrap());
        write(&host, old, 0, leaf(format, Level::L1, Access::ALL));
        tlb.access(&host, old, Gpa(0), Access::READ).unwrap();
        assert_eq!(tlb.access(&host, new, Gpa(0), Access::READ).is_ok(), stale);
    }
}

#[test]
fn a_large_translation_serves_every_page_of_it() {
    let host = MockHost::new();
    let mut tlb = Tlb::new(Walker::new(Format::Npt, Level::L2));
    let table = host.alloc_table().unwrap();
    write(&host, table, 0, leaf(Format::Npt, Level::L2, Access::ALL));
    tlb.access(&host, table, Gpa(0x5000), Access::READ).unwrap();
    write(&host, table, 0, 0);
    let hit = tlb.access(&host, table, Gpa(0x1f_f000), Access::READ);
    assert_eq!(hit, Ok(DATA.add(511)));
    assert_eq!(tlb.len(), 1);
}
