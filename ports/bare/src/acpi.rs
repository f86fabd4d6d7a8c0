//! Which CPUs the machine has, from the tables that its firmware left.
//!
//! The root pointer is looked for where every PC's firmware has it, so that
//! the boot loader's own way of telling does not matter (ACPI specification,
//! "Finding the RSDP on IA-PC Systems"). Everything is mapped one to one.
use core::ptr;

/// The first bytes of the root pointer.
const ROOT: [u8; 8] = *b"RSD PTR ";
const ROOT_LENGTH: u64 = 20;
/// Where the root pointer has the address of the table of tables.
const ROOT_TABLES: u64 = 16;

/// The firmware's read-only memory, below 1 MiB.
const FIRMWARE: (u64, u64) = (0xe_0000, 0x10_0000);
/// Holds the segment of the firmware's data area, whose first KiB may have it.
const DATA_AREA: u64 = 0x40e;

const TABLE_LENGTH: u64 = 4;
const TABLE_HEADER: u64 = 36;
/// The interrupt controllers' table: behind the header two fields, then one
/// record each controller.
const RECORDS: u64 = 44;
const LOCAL_APIC: u8 = 0;
const ENABLED: u32 = 1;

/// More tables than any machine has.
const LIMIT: u64 = 1 << 16;

fn read<T: Copy>(at: u64) -> T {
    // SAFETY: below 4 GiB everything is mapped, and reading memory that the
    // firmware describes as tables has no effect.
    unsafe { ptr::read_unaligned(at as *const T) }
}

fn sums_to_zero(at: u64, length: u64) -> bool {
    (at..at + length).fold(0, |sum: u8, at| sum.wrapping_add(read(at))) == 0
}

fn root() -> Option<u64> {
    let data = u64::from(read::<u16>(DATA_AREA)) << 4;
    let data = (data, data + 1024);
    [data, FIRMWARE]
        .into_iter()
        .flat_map(|(start, end)| (start..end).step_by(16))
        .find(|&at| read::<[u8; 8]>(at) == ROOT && sums_to_zero(at, ROOT_LENGTH))
}

/// Finds the table with this signature.
fn table(signature: &[u8; 4]) -> Option<u64> {
    let tables = u64::from(read::<u32>(root()? + ROOT_TABLES));
    let length = u64::from(read::<u32>(tables + TABLE_LENGTH)).min(LIMIT);
    (TABLE_HEADER..length)
        .step_by(4)
        .map(|at| u64::from(read::<u32>(tables + at)))
        .find(|&at| read::<[u8; 4]>(at) == *signature)
}

/// Calls `found` with the number of each CPU's local APIC. Says whether there
/// was a table to look in.
pub fn for_each_apic(mut found: impl FnMut(u8)) -> bool {
    let Some(table) = table(b"APIC") else {
        return false;
    };
    let length = u64::from(read::<u32>(table + TABLE_LENGTH)).min(LIMIT);
    let mut at = RECORDS;
    while at < length {
        let [kind, size, _, apic] = read::<[u8; 4]>(table + at);
        if kind == LOCAL_APIC && read::<u32>(table + at + 4) & ENABLED != 0 {
            found(apic);
        }
        // A record without a length would be read for ever.
        at += u64::from(size.max(2));
    }
    true
}
