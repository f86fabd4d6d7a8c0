//! Segment and descriptor-table registers.
//!
//! Source: Intel SDM volume 3, "Segment Descriptors"; AMD APM volume 2, "Segment Registers".

/// A segment register. The first six are numbered as instructions encode them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentName {
    /// Extra segment.
    Es,
    /// Code segment.
    Cs,
    /// Stack segment.
    Ss,
    /// Data segment.
    Ds,
    /// Extra segment, with a base in long mode.
    Fs,
    /// Extra segment, with a base in long mode.
    Gs,
    /// Local descriptor table.
    Ldtr,
    /// Task register.
    Tr,
}

impl SegmentName {
    /// All of them, in the order of their numbers.
    pub const ALL: [SegmentName; 8] = [
        SegmentName::Es,
        SegmentName::Cs,
        SegmentName::Ss,
        SegmentName::Ds,
        SegmentName::Fs,
        SegmentName::Gs,
        SegmentName::Ldtr,
        SegmentName::Tr,
    ];
}

bitflags::bitflags! {
    /// A segment's access rights: bits 47:40 of its descriptor in bits 7:0, bits 55:52 in bits
    /// 11:8.
    ///
    /// A segment without [`PRESENT`](Attributes::PRESENT) cannot be used. The lowest four bits are
    /// the type, bits 6:5 the descriptor's privilege level.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Attributes: u16 {
        /// Has been accessed.
        const ACCESSED = 1 << 0;
        /// Data: may be written. Code: may be read.
        const WRITABLE_OR_READABLE = 1 << 1;
        /// Data: grows downwards. Code: conforming.
        const DOWN_OR_CONFORMING = 1 << 2;
        /// Code, as opposed to data.
        const CODE = 1 << 3;
        /// Code or data, as opposed to a system segment.
        const CODE_OR_DATA = 1 << 4;
        /// The privilege level.
        const DPL = 3 << 5;
        /// Present.
        const PRESENT = 1 << 7;
        /// For software.
        const AVAILABLE = 1 << 8;
        /// 64-bit code.
        const LONG = 1 << 9;
        /// 32-bit operands, addresses or stack.
        const BIG = 1 << 10;
        /// The limit counts pages.
        const GRANULARITY = 1 << 11;
    }
}

impl Attributes {
    /// The type: bits 3:0.
    pub fn kind(self) -> u8 {
        (self.bits() & 0xf) as u8
    }

    /// The descriptor's privilege level.
    pub fn dpl(self) -> u8 {
        (self.bits() >> 5 & 3) as u8
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The access rights.
    pub attributes: Attributes,
    /// The last valid offset, in bytes; the granularity is already applied.
    pub limit: u32,
    /// The linear address where it begins.
    pub base: u64,
}

/// A descriptor-table register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableName {
    /// Global descriptor table.
    Gdtr,
    /// Interrupt descriptor table.
    Idtr,
}

/// The value of a descriptor-table register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableRegister {
    /// The last valid offset.
    pub limit: u16,
    /// The linear address.
    pub base: u64,
}
