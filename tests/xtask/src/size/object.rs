//! The sections and symbols of a kernel module.
//!
//! Source: "System V Application Binary Interface", "Object Files".

use crate::Outcome;
use std::fs;
use std::path::Path;

/// What the bytes of a loaded module are for.
pub const KINDS: [&str; 5] = [
    "code",
    "constants and data",
    "unwind tables",
    "other tables of the kernel's",
    "symbols",
];
/// The place of code among them.
pub const CODE: usize = 0;
const DATA: usize = 1;
const UNWIND: usize = 2;
const TABLES: usize = 3;
const SYMBOLS: usize = 4;

/// A module's bytes, by kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    pub bytes: [u64; KINDS.len()],
}

const ALLOC: u64 = 2;
const EXECUTABLE: u64 = 4;
const SYMTAB: u64 = 2;

/// A section header.
struct Section<'a> {
    name: &'a [u8],
    kind: u64,
    flags: u64,
    offset: usize,
    size: usize,
    link: usize,
}

impl Section<'_> {
    /// Whether it stays in memory: not what only loading needs.
    fn stays(&self) -> bool {
        const GOES: [&[u8]; 2] = [b"__versions", b".modinfo"];
        self.flags & ALLOC != 0 && !self.name.starts_with(b".init") && !GOES.contains(&self.name)
    }

    fn is_code(&self) -> bool {
        self.flags & EXECUTABLE != 0
    }
}

impl Object {
    /// Reads a module's file.
    pub fn read(file: &Path) -> Outcome<Self> {
        let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::of(&bytes).ok_or_else(|| format!("{} is no kernel module", file.display()))
    }

    /// What the kernel keeps of it in memory.
    pub fn loaded(&self) -> u64 {
        self.bytes.iter().sum()
    }

    fn of(file: &[u8]) -> Option<Self> {
        if !file.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let sections = sections(file)?;
        let mut bytes = [0; KINDS.len()];
        for section in sections.iter().filter(|section| section.stays()) {
            let kind = match section.name {
                _ if section.is_code() => CODE,
                name if name.starts_with(b".orc_") => UNWIND,
                name if [b".rodata".as_slice(), b".data", b".bss"]
                    .iter()
                    .any(|start| name.starts_with(start)) =>
                {
                    DATA
                }
                _ => TABLES,
            };
            bytes[kind] += section.size as u64;
        }
        // The kernel keeps the symbols of what stays: an entry, a byte for its type, and the name.
        const ENTRY: usize = 24;
        const KEPT: u64 = ENTRY as u64 + 1;
        let table = sections.iter().find(|section| section.kind == SYMTAB)?;
        let names = sections.get(table.link)?;
        let names = file.get(names.offset..names.offset + names.size)?;
        let entries = file.get(table.offset..table.offset + table.size)?;
        bytes[SYMBOLS] = KEPT;
        for entry in entries.chunks_exact(ENTRY) {
            let section = sections.get(number(entry, 6, 2)? as usize);
            let name = text(names, number(entry, 0, 4)? as usize)?;
            if !name.is_empty() && section.is_some_and(Section::stays) {
                bytes[SYMBOLS] += KEPT + name.len() as u64 + 1;
            }
        }
        Some(Self { bytes })
    }
}

/// The section headers.
fn sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    const SIZE: usize = 64;
    let start = number(file, 0x28, 8)? as usize;
    let count = number(file, 0x3c, 2)? as usize;
    let header = |index: usize| file.get(start + index * SIZE..start + (index + 1) * SIZE);
    let names = number(header(number(file, 0x3e, 2)? as usize)?, 0x18, 8)? as usize;
    (0..count)
        .map(|index| {
            let header = header(index)?;
            Some(Section {
                name: text(file, names + number(header, 0, 4)? as usize)?,
                kind: number(header, 4, 4)?,
                flags: number(header, 8, 8)?,
                offset: number(header, 0x18, 8)? as usize,
                size: number(header, 0x20, 8)? as usize,
                link: number(header, 0x28, 4)? as usize,
            })
        })
        .collect()
}

/// The little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
    )
}

/// The text at `at`, which ends with a zero.
fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at..)?.split(|&byte| byte == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_no_module() {
        assert_eq!(Object::of(b"\x7fELF\x02\x01"), None);
        assert_eq!(Object::of(&[0; 100]), None);
    }

    #[test]
    fn numbers_begin_with_their_lowest_byte() {
        assert_eq!(number(&[0, 1, 2], 1, 2), Some(0x201));
        assert_eq!(number(&[0, 1, 2], 2, 2), None);
        assert_eq!(text(b"a\0bc\0", 2), Some(b"bc".as_slice()));
    }
}
