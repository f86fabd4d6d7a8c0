//! Relocatable objects, placed as FreeBSD's module loader places them.
//!
//! Sections that are in memory follow each other in the order of their headers, each aligned, from
//! the begin of a page on; each page may do what any section on it may. Source: link_elf_obj(4)'s
//! behaviour; System V ABI, "Object Files", and its supplement for AMD64, "Relocation".
use core::ffi::CStr;

use super::place::{Access, Place};

const RELOCATABLE: u16 = 1;
const PROG_BITS: u32 = 1;
const SYMBOLS: u32 = 2;
const RELOCATIONS: u32 = 4;
const NO_BITS: u32 = 8;
const ALLOC: u64 = 2;
const WRITE: u64 = 1;
const EXECUTE: u64 = 4;
const SECTION_SIZE: u64 = 64;
const SYMBOL_SIZE: u64 = 24;
const RELOCATION_SIZE: u64 = 24;
const ABSOLUTE: u16 = 0xfff1;
/// More sections than an object has that is merged.
const SECTIONS: usize = 64;

/// Why an object cannot be loaded.
#[derive(Debug)]
#[expect(dead_code, reason = "the log shows what is in it")]
pub enum Fault {
    /// It ends too early, or is none.
    Malformed,
    /// A section of a kind that the loader does not load.
    Section(u32),
    /// A relocation that it does not know.
    Relocation(u32),
    /// The value does not fit.
    TooFar(u32),
    /// Nobody has this symbol.
    Symbol(&'static str),
    /// No room.
    Memory,
}

/// An object in memory.
pub struct Object {
    file: File,
    place: Place,
    /// Where each section is, or 0.
    addresses: [u64; SECTIONS],
}

/// The bytes of one.
#[derive(Clone, Copy)]
struct File(&'static [u8]);

/// A section's header.
#[derive(Clone, Copy)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    alignment: u64,
}

impl File {
    fn bytes<const N: usize>(self, at: u64) -> Result<[u8; N], Fault> {
        let rest = self.0.get(at as usize..).ok_or(Fault::Malformed)?;
        rest.first_chunk().copied().ok_or(Fault::Malformed)
    }

    fn half(self, at: u64) -> Result<u16, Fault> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn word(self, at: u64) -> Result<u32, Fault> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn long(self, at: u64) -> Result<u64, Fault> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn text(self, at: u64) -> Result<&'static str, Fault> {
        let rest = self.0.get(at as usize..).ok_or(Fault::Malformed)?;
        let text = CStr::from_bytes_until_nul(rest).map_err(|_| Fault::Malformed)?;
        text.to_str().map_err(|_| Fault::Malformed)
    }

    fn count(self) -> Result<usize, Fault> {
        let count = usize::from(self.half(60)?);
        if self.bytes(0)? != *b"\x7fELF\x02\x01"
            || self.half(16)? != RELOCATABLE
            || count > SECTIONS
        {
            return Err(Fault::Malformed);
        }
        Ok(count)
    }

    fn section(self, number: usize) -> Result<Section, Fault> {
        let at = self.long(40)? + number as u64 * SECTION_SIZE;
        Ok(Section {
            name: self.word(at)?,
            kind: self.word(at + 4)?,
            flags: self.long(at + 8)?,
            offset: self.long(at + 24)?,
            size: self.long(at + 32)?,
            link: self.word(at + 40)?,
            info: self.word(at + 44)?,
            alignment: self.long(at + 48)?.max(1),
        })
    }

    fn section_name(self, section: Section) -> Result<&'static str, Fault> {
        let names = self.section(self.half(62)?.into())?;
        self.text(names.offset + u64::from(section.name))
    }

    /// The first section of a kind.
    fn find(self, kind: u32) -> Result<Section, Fault> {
        for number in 0..self.count()? {
            let section = self.section(number)?;
            if section.kind == kind {
                return Ok(section);
            }
        }
        Err(Fault::Malformed)
    }
}

impl Object {
    /// Places an object and resolves its imports.
    pub fn load(file: &'static [u8], imports: &dyn Fn(&str) -> Option<u64>) -> Result<Self, Fault> {
        let file = File(file);
        let mut offsets = [None; SECTIONS];
        let mut size = 0_u64;
        for (number, place) in offsets.iter_mut().enumerate().take(file.count()?) {
            let section = file.section(number)?;
            if section.flags & ALLOC == 0 {
                continue;
            }
            if !matches!(section.kind, PROG_BITS | NO_BITS) {
                return Err(Fault::Section(section.kind));
            }
            size = size.next_multiple_of(section.alignment);
            *place = Some(size);
            size += section.size;
        }
        let place = Place::new(size).ok_or(Fault::Memory)?;
        let addresses = offsets.map(|offset| offset.map_or(0, |offset| place.address() + offset));
        let object = Self {
            file,
            place,
            addresses,
        };
        object.fill()?;
        object.relocate(imports)?;
        object.protect()?;
        Ok(object)
    }

    fn placed(&self) -> impl Iterator<Item = (usize, u64)> {
        let places = self.addresses.iter().copied().enumerate();
        places.filter(|&(_, address)| address != 0)
    }

    fn fill(&self) -> Result<(), Fault> {
        for (number, address) in self.placed() {
            let section = self.file.section(number)?;
            if section.kind == PROG_BITS {
                let bytes = self.file.0.get(section.offset as usize..);
                let bytes = bytes.and_then(|rest| rest.get(..section.size as usize));
                self.place.write(address, bytes.ok_or(Fault::Malformed)?);
            }
        }
        Ok(())
    }

    fn protect(&self) -> Result<(), Fault> {
        for (number, address) in self.placed() {
            let section = self.file.section(number)?;
            let access = Access {
                write: section.flags & WRITE != 0,
                execute: section.flags & EXECUTE != 0,
            };
            self.place.allow(address, section.size, access);
        }
        self.place.finish();
        Ok(())
    }

    /// A symbol's name, and its value if it is one of the object's own.
    fn symbol(&self, number: u64) -> Result<(&'static str, Option<u64>), Fault> {
        let table = self.file.find(SYMBOLS)?;
        let at = table.offset + number * SYMBOL_SIZE;
        let names = self.file.section(table.link as usize)?;
        let name = self
            .file
            .text(names.offset + u64::from(self.file.word(at)?))?;
        let value = self.file.long(at + 8)?;
        Ok((
            name,
            match self.file.half(at + 6)? {
                0 => None,
                ABSOLUTE => Some(value),
                section => self
                    .addresses
                    .get(usize::from(section))
                    .map(|address| address + value),
            },
        ))
    }

    fn relocate(&self, imports: &dyn Fn(&str) -> Option<u64>) -> Result<(), Fault> {
        for number in 0..self.file.count()? {
            let table = self.file.section(number)?;
            let target = self.addresses.get(table.info as usize).copied();
            let Some(target @ 1..) = target else { continue };
            if table.kind != RELOCATIONS {
                continue;
            }
            for at in (table.offset..table.offset + table.size).step_by(RELOCATION_SIZE as usize) {
                let info = self.file.long(at + 8)?;
                let (name, value) = self.symbol(info >> 32)?;
                let value = match value {
                    Some(value) => value,
                    None => imports(name).ok_or(Fault::Symbol(name))?,
                };
                let value = value.wrapping_add(self.file.long(at + 16)?);
                self.apply(info as u32, target + self.file.long(at)?, value)?;
            }
        }
        Ok(())
    }

    fn apply(&self, kind: u32, at: u64, value: u64) -> Result<(), Fault> {
        let short = |value: u64| {
            let short = i32::try_from(value as i64).map_err(|_| Fault::TooFar(kind));
            short.map(i32::to_le_bytes)
        };
        match kind {
            // R_X86_64_NONE.
            0 => {}
            // R_X86_64_64.
            1 => self.place.write(at, &value.to_le_bytes()),
            // R_X86_64_PC32, R_X86_64_PLT32.
            2 | 4 => self.place.write(at, &short(value.wrapping_sub(at))?),
            // R_X86_64_32S.
            11 => self.place.write(at, &short(value)?),
            other => return Err(Fault::Relocation(other)),
        }
        Ok(())
    }

    /// Where a symbol of this object is.
    pub fn find(&self, name: &str) -> Option<u64> {
        const LOCAL: u8 = 0;
        let table = self.file.find(SYMBOLS).ok()?;
        (0..table.size / SYMBOL_SIZE).find_map(|number| {
            let [info] = self
                .file
                .bytes(table.offset + number * SYMBOL_SIZE + 4)
                .ok()?;
            let (known, value) = self.symbol(number).ok()?;
            value.filter(|_| known == name && info >> 4 != LOCAL)
        })
    }

    /// Begin and end of a linker set.
    pub fn set(&self, name: &str) -> Option<[u64; 2]> {
        self.placed().find_map(|(number, address)| {
            let section = self.file.section(number).ok()?;
            let known = self.file.section_name(section).ok()?;
            (known == name).then_some([address, address + section.size])
        })
    }
}
