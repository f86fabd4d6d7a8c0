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
