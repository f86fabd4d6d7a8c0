//! Access rights of segments, in the core's words and in a control structure's.
//!
//! Source: Intel SDM volume 3, "Guest Register State" and "Checks on Guest Segment Registers".
use waterbear_core::arch::{Attributes, SegmentName};

/// The segment cannot be used.
const UNUSABLE: u32 = 1 << 16;
/// The type of a system segment that makes a task-state segment busy.
const BUSY: u32 = 2;
/// The type bit of a code or data segment that has been accessed.
const ACCESSED: u32 = 1;
/// Where the attributes above bit 7 are moved to.
const MOVED: u32 = 4;

/// The access rights of `attributes` in the register `name`.
///
/// A code or data segment in a register has been accessed, and the task register's is busy: a CPU
/// sees to that when it loads one, and an entry wants it so.
pub fn encode(name: SegmentName, attributes: Attributes) -> u32 {
    let bits = u32::from(attributes.bits());
    let mut rights = bits & 0xff | (bits & 0xf00) << MOVED;
    match name {
        SegmentName::Tr => rights |= BUSY,
        SegmentName::Ldtr => {}
        _ => rights |= ACCESSED,
    }
    if !attributes.contains(Attributes::PRESENT) {
        rights |= UNUSABLE;
    }
    rights
}

/// The attributes of a segment with these access rights.
pub fn decode(rights: u32) -> Attributes {
    let bits = rights & 0xff | rights >> MOVED & 0xf00;
    let attributes = Attributes::from_bits_truncate(bits as u16);
    if rights & UNUSABLE != 0 {
        attributes - Attributes::PRESENT
    } else {
        attributes
    }
}

/// The privilege level in the access rights of SS, which is the CPU's.
pub fn privilege(rights: u32) -> u8 {
    (rights >> 5 & 3) as u8
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_into_a_register_and_back() {
        let code = Attributes::from_bits_retain(0xa9b);
        assert_eq!(encode(SegmentName::Cs, code), 0xa09b);
        assert_eq!(decode(0xa09b), code);
        assert_eq!(privilege(0xf3), 3);
    }

    #[test]
    fn a_segment_that_is_not_present_cannot_be_used() {
        let absent = Attributes::from_bits_retain(0x2);
        assert_eq!(encode(SegmentName::Ldtr, absent), 0x1_0002);
        // Hardware may leave the present bit as it was.
        assert_eq!(decode(0x1_0082), absent);
    }

    #[test]
    fn a_loaded_segment_is_accessed_and_a_loaded_task_busy() {
        let bits = Attributes::from_bits_retain;
        assert_eq!(encode(SegmentName::Ds, bits(0x92)), 0x93);
        assert_eq!(encode(SegmentName::Tr, bits(0x89)), 0x8b);
        assert_eq!(encode(SegmentName::Tr, bits(0x81)), 0x83);
    }
}
