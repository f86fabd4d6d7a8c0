//! Reading a relocatable object, as far as its checks need it.
//!
//! Source: System V ABI, "Object Files", and its supplement for AMD64, "Relocation".

use crate::Outcome;

/// The section flag for memory that can be written.
pub const WRITE: u64 = 1;
/// The section flag for what is in memory at all.
pub const ALLOC: u64 = 2;
/// The section flag for code.
pub const EXECUTE: u64 = 4;

/// The section type of a table of symbols.
const SYMBOLS: u32 = 2;
/// The section type of relocations with addends.
const RELOCATIONS: u32 = 4;
/// The section type without bytes in the file.
const NO_BITS: u32 = 8;

const SECTION_SIZE: usize = 64;
const SYMBOL_SIZE: usize = 24;
const RELOCATION_SIZE: usize = 24;

/// A section.
pub struct Section {
    pub name: String,
    pub flags: u64,
    pub size: u64,
    pub bytes: Vec<u8>,
    kind: u32,
    link: usize,
    info: usize,
}

#[cfg(test)]
impl Section {
    /// One of zeros.
    pub fn new(name: &str, flags: u64, size: u64) -> Self {
        Self {
            name: name.to_owned(),
            flags,
            size,
            bytes: vec![0; size as usize],
            kind: 1,
            link: 0,
            info: 0,
        }
    }
}

/// A symbol.
pub struct Symbol {
    pub name: String,
    /// The number of its section; 0 for one that is not in this object.
    pub section: usize,
    /// Where in the section.
    pub value: u64,
}

/// A relocation.
pub struct Relocation {
    /// The number of the section whose bytes it changes.
    pub section: usize,
    pub offset: u64,
    pub kind: u32,
    /// The number of the symbol.
    pub symbol: usize,
    pub addend: i64,
}

/// An object.
pub struct Object {
    pub sections: Vec<Section>,
    pub symbols: Vec<Symbol>,
    pub relocations: Vec<Relocation>,
}

impl Object {
    /// Reads a file's bytes.
    pub fn read(file: &[u8]) -> Outcome<Self> {
        Self::parse(file).ok_or_else(|| "this is no relocatable 64-bit object".to_owned())
    }

    fn parse(file: &[u8]) -> Option<Self> {
        const RELOCATABLE: u16 = 1;
        if file.get(..5)? != b"\x7fELF\x02" || half(file, 16)? != RELOCATABLE {
            return None;
        }
        let (start, count, names) = (long(file, 40)?, half(file, 60)?, half(file, 62)?);
        let mut sections = Vec::new();
        let mut name_offsets = Vec::new();
        for number in 0..usize::from(count) {
            let at = usize::try_from(start).ok()? + number * SECTION_SIZE;
            let kind = word(file, at + 4)?;
            let (offset, size) = (long(file, at + 24)?, long(file, at + 32)?);
            let bytes = match kind {
                NO_BITS => &[][..],
                _ => slice(file, offset, size)?,
            };
            name_offsets.push(word(file, at)?);
            sections.push(Section {
                name: String::new(),
                flags: long(file, at + 8)?,
                size,
                bytes: bytes.to_vec(),
                kind,
                link: word(file, at + 40)? as usize,
                info: word(file, at + 44)? as usize,
            });
        }
        let table = sections.get(usize::from(names))?.bytes.clone();
        for (section, offset) in sections.iter_mut().zip(name_offsets) {
            section.name = text(&table, offset as usize)?;
        }
        Some(Self {
            symbols: symbols(&sections)?,
            relocations: relocations(&sections)?,
            sections,
        })
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<(usize, &Section)> {
        let mut sections = self.sections.iter().enumerate();
        sections.find(|(_, section)| section.name == name)
    }

    /// Where the pointer at `offset` in a section will point: section and offset.
    pub fn pointer(&self, section: usize, offset: u64) -> Option<(usize, u64)> {
        let here = |it: &&Relocation| it.section == section && it.offset == offset;
        let relocation = self.relocations.iter().find(here)?;
        let symbol = self.symbols.get(relocation.symbol)?;
        let offset = symbol.value.checked_add_signed(relocation.addend)?;
        Some((symbol.section, offset))
    }

    /// The text without its end at a place that a pointer leads to.
    pub fn text_at(&self, (section, offset): (usize, u64)) -> Option<String> {
        text(&self.sections.get(section)?.bytes, offset as usize)
    }

    /// The 32-bit number at a place that a pointer leads to.
    pub fn number_at(&self, (section, offset): (usize, u64)) -> Option<u32> {
        word(&self.sections.get(section)?.bytes, offset as usize)
    }
}

fn symbols(sections: &[Section]) -> Option<Vec<Symbol>> {
    let table = sections.iter().find(|section| section.kind == SYMBOLS)?;
    let names = &sections.get(table.link)?.bytes;
    let symbol = |bytes: &[u8]| {
        Some(Symbol {
            name: text(names, word(bytes, 0)? as usize)?,
            section: half(bytes, 6)?.into(),
            value: long(bytes, 8)?,
        })
    };
    table.bytes.chunks(SYMBOL_SIZE).map(symbol).collect()
}

fn relocations(sections: &[Section]) -> Option<Vec<Relocation>> {
    let mut found = Vec::new();
    for table in sections
        .iter()
        .filter(|section| section.kind == RELOCATIONS)
    {
        for bytes in table.bytes.chunks(RELOCATION_SIZE) {
            let info = long(bytes, 8)?;
            found.push(Relocation {
                section: table.info,
                offset: long(bytes, 0)?,
                kind: info as u32,
                symbol: (info >> 32) as usize,
                addend: long(bytes, 16)? as i64,
            });
        }
    }
    Some(found)
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let (offset, size) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
    bytes.get(offset..)?.get(..size)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)
}

fn text(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}
