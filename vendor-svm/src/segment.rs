//! Segment and descriptor-table registers in the control block.
//!
//! The block packs access rights as [`Attributes`] does and counts limits in bytes, so little is
//! left to translate. Source: AMD APM volume 2, "VMCB Layout, State Save Area" and "VMRUN",
//! "Segment State in the VMCB".
use waterbear_core::arch::{Attributes, Segment, SegmentName, TableName, TableRegister};

use crate::clean::Clean;
use crate::vmcb::{Save, VmcbSegment};

const CS: usize = 1;
const SS: usize = 2;
const GDTR: usize = 6;
const IDTR: usize = 8;

/// The place of a segment register, and what of the block its change makes stale. VMLOAD reads
/// the last four from memory each time.
const fn place(name: SegmentName) -> (usize, Clean) {
    match name {
        SegmentName::Es => (0, Clean::SEGMENTS),
        SegmentName::Cs => (CS, Clean::SEGMENTS),
        SegmentName::Ss => (SS, Clean::SEGMENTS),
        SegmentName::Ds => (3, Clean::SEGMENTS),
        SegmentName::Fs => (4, Clean::empty()),
        SegmentName::Gs => (5, Clean::empty()),
        SegmentName::Ldtr => (7, Clean::empty()),
        SegmentName::Tr => (9, Clean::empty()),
    }
}

const fn table_place(name: TableName) -> usize {
    match name {
        TableName::Gdtr => GDTR,
        TableName::Idtr => IDTR,
    }
}

/// A segment register as the block has it.
pub fn get(save: &Save, name: SegmentName) -> Segment {
    let raw = &save.segments[place(name).0];
    let mut attributes = Attributes::from_bits_truncate(raw.attributes);
    // Neither the granularity of CS nor the privilege level in SS is kept on every CPU.
    if raw.limit > 0xf_ffff {
        attributes |= Attributes::GRANULARITY;
    }
    if name == SegmentName::Ss {
        attributes = attributes.difference(Attributes::DPL)
            | Attributes::from_bits_truncate(u16::from(save.cpl & 3) << 5);
    }
    Segment {
        selector: raw.selector,
        attributes,
        limit: raw.limit,
        base: raw.base,
    }
}

/// Sets a segment register; returns what that makes stale.
pub fn set(save: &mut Save, name: SegmentName, value: Segment) -> Clean {
    let (at, stale) = place(name);
    save.segments[at] = VmcbSegment {
        selector: value.selector,
        attributes: value.attributes.bits(),
        limit: value.limit,
        base: value.base,
    };
    if at == CS || at == SS {
        save.cpl = Attributes::from_bits_truncate(save.segments[SS].attributes).dpl();
    }
    stale
}

/// A descriptor-table register.
pub fn table(save: &Save, name: TableName) -> TableRegister {
    let raw = &save.segments[table_place(name)];
    TableRegister {
        limit: raw.limit as u16,
        base: raw.base,
    }
}

/// Sets a descriptor-table register; returns what that makes stale.
pub fn set_table(save: &mut Save, name: TableName, value: TableRegister) -> Clean {
    save.segments[table_place(name)] = VmcbSegment {
        limit: u32::from(value.limit),
        base: value.base,
        ..VmcbSegment::default()
    };
    Clean::TABLES
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pages::empty_block;

    #[test]
    fn every_segment_has_a_place_of_its_own() {
        let mut block = empty_block();
        let save = &mut block.save;
        let value = |name: SegmentName| Segment {
            selector: name as u16 * 8 + 8,
            attributes: Attributes::from_bits_truncate(0x93),
            limit: 0xffff,
            base: (name as u64) << 12,
        };
        for name in SegmentName::ALL {
            set(save, name, value(name));
        }
        let tables = [TableName::Gdtr, TableName::Idtr];
        for (name, base) in tables.into_iter().zip(1..) {
            set_table(save, name, TableRegister { limit: 7, base });
        }
        for name in SegmentName::ALL {
            assert_eq!(get(save, name), value(name));
        }
        for (name, base) in tables.into_iter().zip(1..) {
            assert_eq!(table(save, name), TableRegister { limit: 7, base });
        }
    }

    #[test]
    fn the_privilege_level_is_that_of_ss() {
        let mut block = empty_block();
        let save = &mut block.save;
        let user = Segment {
            attributes: Attributes::from_bits_truncate(0xf3),
            ..Segment::default()
        };
        assert_eq!(set(save, SegmentName::Ss, user), Clean::SEGMENTS);
        assert_eq!(save.cpl, 3);
        // The CPU keeps it in one place only.
        save.cpl = 2;
        assert_eq!(get(save, SegmentName::Ss).attributes.dpl(), 2);
        set(save, SegmentName::Ds, user);
        assert_eq!(save.cpl, 2);
    }
}
