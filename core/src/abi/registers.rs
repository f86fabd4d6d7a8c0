//! General and special registers, as the interface has them.
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Structure, field, put, set_field};
use super::kvm::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_sregs2};
use super::vcpu::State;
use crate::Error;
use crate::arch::{Attributes, Cr0, Cr4, Efer, Segment, SegmentName, TableName, TableRegister};
use crate::regs::Regs;
use crate::run::control::in_pae_mode;
use crate::run::event::Events;
use crate::run::msr::index::APIC_BASE;
use crate::vendor::{Control, Vendor};
use crate::vm::Vm;

const SEGMENT: usize = size_of::<kvm_segment>();
const TABLE: usize = size_of::<kvm_dtable>();
/// KVM_SREGS2_FLAGS_PDPTRS_VALID: the page-directory pointers are there.
const POINTERS_VALID: u64 = 1;

/// The numbers of the general registers, in the order in which the interface has them.
const GENERAL: [u8; 16] = [0, 3, 1, 2, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// The segment registers, in the order in which the interface has them, from its beginning on.
const SEGMENTS: [SegmentName; 8] = [
    SegmentName::Cs,
    SegmentName::Ds,
    SegmentName::Es,
    SegmentName::Fs,
    SegmentName::Gs,
    SegmentName::Ss,
    SegmentName::Tr,
    SegmentName::Ldtr,
];

/// The descriptor-table registers, which are behind them.
const TABLES: [TableName; 2] = [TableName::Gdtr, TableName::Idtr];

/// The parts of a segment's rights, each of which is a byte of the interface's: the lowest bit, and
/// how many there are. Type, present, DPL, big, code or data, long, granularity, available.
const RIGHTS: [(u8, u8); 8] = [
    (0, 4),
    (7, 1),
    (5, 2),
    (10, 1),
    (4, 1),
    (9, 1),
    (11, 1),
    (8, 1),
];
/// Where the first of these bytes is.
const FIRST_RIGHT: usize = offset_of!(kvm_segment, type_);

fn segment_in(sent: &[u8; SEGMENT]) -> Segment {
    let mut bits = 0;
    for (byte, (first, count)) in sent.iter().skip(FIRST_RIGHT).zip(RIGHTS) {
        // What is a single bit here is anything but 0 there.
        let byte = if count == 1 { (*byte).min(1) } else { *byte };
        bits |= u16::from(byte & ((1 << count) - 1)) << first;
    }
    let mut attributes = Attributes::from_bits_retain(bits);
    if field!(sent, kvm_segment.unusable: u8) != 0 {
        attributes.remove(Attributes::PRESENT);
    }
    Segment {
        selector: field!(sent, kvm_segment.selector: u16),
        attributes,
        limit: field!(sent, kvm_segment.limit: u32),
        base: field!(sent, kvm_segment.base: u64),
    }
}

fn segment_out(bytes: &mut [u8; SEGMENT], segment: &Segment) {
    let attributes = segment.attributes;
    set_field!(bytes, kvm_segment.selector = segment.selector);
    set_field!(bytes, kvm_segment.limit = segment.limit);
    set_field!(bytes, kvm_segment.base = segment.base);
    for (byte, (first, count)) in bytes.iter_mut().skip(FIRST_RIGHT).zip(RIGHTS) {
        *byte = (attributes.bits() >> first) as u8 & ((1 << count) - 1);
    }
    let usable = attributes.contains(Attributes::PRESENT);
    set_field!(bytes, kvm_segment.unusable = u8::from(!usable));
}

impl<H: Hal, V: Vendor> State<H, V> {
    pub(super) fn get_regs(&mut self, vendor: &V, bytes: &mut Structure) {
        let regs = vendor.regs(self.cpu.state());
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, number) in words.iter_mut().zip(GENERAL) {
            *word = regs.get(number).to_le_bytes();
        }
        set_field!(bytes, kvm_regs.rip = regs.rip);
        set_field!(bytes, kvm_regs.rflags = regs.rflags);
    }

    pub(super) fn set_regs(&mut self, vendor: &V, sent: &Structure) {
        /// Bits of RFLAGS that are always the same: one is set.
        const FIXED: u64 = !0x3f_7fd7;
        let regs = vendor.regs(self.cpu.state());
        let (words, _) = sent.as_chunks::<8>();
        for (word, number) in words.iter().zip(GENERAL) {
            regs.set(number, u64::from_le_bytes(*word));
        }
        regs.rflags = field!(sent, kvm_regs.rflags: u64) & !FIXED | 2;
        let old = core::mem::replace(&mut regs.rip, field!(sent, kvm_regs.rip: u64));
        if old != regs.rip {
            self.cpu.abandon();
        }
    }

    pub(super) fn get_sregs(&mut self, vendor: &V, bytes: &mut Structure) {
        self.special_out(vendor, bytes);
        if let Some(vector) = self.cpu.events().interrupt {
            const BITMAP: usize = offset_of!(kvm_sregs, interrupt_bitmap);
            let at = BITMAP + usize::from(vector) / 8;
            put(bytes, at, [1 << (vector % 8)]);
        }
    }

    pub(super) fn set_sregs(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        sent: &Structure,
    ) -> Result<(), Error> {
        const BITMAP: usize = offset_of!(kvm_sregs, interrupt_bitmap);
        self.special_in(vm, vendor, sent)?;
        // The lowest vector of those that are set; an interrupt that waits
        // already is replaced.
        let mut interrupt = None;
        for first in [192, 128, 64, 0] {
            let bits = bytes::u64(sent, BITMAP + usize::from(first) / 8);
            if bits != 0 {
                interrupt = Some(first | bits.trailing_zeros() as u8);
            }
        }
        let old = *self.cpu.events();
        self.cpu.set_events(Events { interrupt, ..old })
    }

    /// The same with the page-directory pointers of PAE mode, and without interrupts.
    pub(super) fn get_sregs2(&mut self, vm: &Vm<H>, vendor: &V, bytes: &mut Structure) {
        self.special_out(vendor, bytes);
        if let Some(pointers) = self.cpu.page_directories(vm, vendor) {
            const FIRST: usize = offset_of!(kvm_sregs2, pdptrs);
            set_field!(bytes, kvm_sregs2.flags = POINTERS_VALID);
            for (at, pointer) in (FIRST..).step_by(8).zip(pointers) {
                put(bytes, at, pointer.to_le_bytes());
            }
        }
    }

    pub(super) fn set_sregs2(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        sent: &Structure,
    ) -> Result<(), Error> {
        let flags = field!(sent, kvm_sregs2.flags: u64);
        let cr0 = Cr0::from_bits_retain(field!(sent, kvm_sregs2.cr0: u64));
        let cr4 = Cr4::from_bits_retain(field!(sent, kvm_sregs2.cr4: u64));
        let efer = Efer::from_bits_retain(field!(sent, kvm_sregs2.efer: u64));
        let has_pointers = in_pae_mode(cr0, cr4, efer);
        if flags & !POINTERS_VALID != 0 || flags != 0 && !has_pointers {
            return Err(Error::Invalid);
        }
        self.special_in(vm, vendor, sent)?;
        if flags != 0 {
            const FIRST: usize = offset_of!(kvm_sregs2, pdptrs);
            let pointers = [0, 8, 16, 24].map(|at| bytes::u64(sent, FIRST + at));
            vendor.set_page_directories(self.cpu.state(), pointers);
        }
        Ok(())
    }

    /// Fills in what both structures begin with.
    #[inline(never)]
    fn special_out(&mut self, vendor: &V, bytes: &mut Structure) {
        let (segments, tables) = bytes.split_at_mut(TABLES_AT);
        let (segments, _) = segments.as_chunks_mut::<SEGMENT>();
        for (bytes, name) in segments.iter_mut().zip(SEGMENTS) {
            segment_out(bytes, &vendor.segment(self.cpu.state(), name));
        }
        let (tables, _) = tables.as_chunks_mut::<TABLE>();
        for (bytes, name) in tables.iter_mut().zip(TABLES) {
            let table = vendor.table(self.cpu.state(), name);
            set_field!(bytes, kvm_dtable.base = table.base);
            set_field!(bytes, kvm_dtable.limit = table.limit);
        }
        let state = self.cpu.state();
        set_field!(bytes, kvm_sregs.cr0 = vendor.control(state, Control::Cr0));
        set_field!(bytes, kvm_sregs.cr2 = vendor.switched(state).cr2);
        set_field!(bytes, kvm_sregs.cr3 = vendor.control(state, Control::Cr3));
        set_field!(bytes, kvm_sregs.cr4 = vendor.control(state, Control::Cr4));
        set_field!(bytes, kvm_sregs.efer = vendor.control(state, Control::Efer));
        set_field!(bytes, kvm_sregs.cr8 = self.cpu.cr8());
        set_field!(bytes, kvm_sregs.apic_base = self.cpu.apic_base());
    }

    /// Sets what both structures begin with.
    #[inline(never)]
    fn special_in(&mut self, vm: &Vm<H>, vendor: &V, sent: &Structure) -> Result<(), Error> {
        let cr8 = field!(sent, kvm_sregs.cr8: u64);
        if cr8 > 15 {
            return Err(Error::Invalid);
        }
        let controls = [
            field!(sent, kvm_sregs.cr0: u64),
            field!(sent, kvm_sregs.cr3: u64),
            field!(sent, kvm_sregs.cr4: u64),
            field!(sent, kvm_sregs.efer: u64),
        ];
        let old = self.cpu.apic_base();
        let apic_base = field!(sent, kvm_sregs.apic_base: u64);
        self.cpu.set_msr(vendor, APIC_BASE, apic_base)?;
        let set = self.cpu.set_controls(vm, vendor, controls);
        if set.is_err() {
            self.cpu.set_msr(vendor, APIC_BASE, old)?;
        }
        set?;
        self.cpu.set_cr8(cr8)?;
        let state = self.cpu.state();
        vendor.switched(state).cr2 = field!(sent, kvm_sregs.cr2: u64);
        let (segments, tables) = sent.split_at(TABLES_AT);
        let (segments, _) = segments.as_chunks::<SEGMENT>();
        for (sent, name) in segments.iter().zip(SEGMENTS) {
            vendor.set_segment(state, name, segment_in(sent));
        }
        let (tables, _) = tables.as_chunks::<TABLE>();
        for (sent, name) in tables.iter().zip(TABLES) {
            let table = TableRegister {
                base: field!(sent, kvm_dtable.base: u64),
                limit: field!(sent, kvm_dtable.limit: u16),
            };
            vendor.set_table(state, name, table);
        }
        Ok(())
    }
}

/// Where the descriptor-table registers are.
const TABLES_AT: usize = offset_of!(kvm_sregs, gdt);

// The registers stand in these orders.
const _: () = {
    let mut at = 0;
    let places = [
        (Regs::RAX, offset_of!(kvm_regs, rax)),
        (Regs::RBX, offset_of!(kvm_regs, rbx)),
        (Regs::RCX, offset_of!(kvm_regs, rcx)),
        (Regs::RDX, offset_of!(kvm_regs, rdx)),
        (Regs::RSI, offset_of!(kvm_regs, rsi)),
        (Regs::RDI, offset_of!(kvm_regs, rdi)),
        (Regs::RSP, offset_of!(kvm_regs, rsp)),
        (Regs::RBP, offset_of!(kvm_regs, rbp)),
        (8, offset_of!(kvm_regs, r8)),
        (15, offset_of!(kvm_regs, r15)),
    ];
    while at < places.len() {
        let (number, place) = places[at];
        assert!(GENERAL[place / 8] as usize == number);
        at += 1;
    }
    assert!(
        offset_of!(kvm_sregs, cs) == 0
            && offset_of!(kvm_sregs, ds) == SEGMENT
            && offset_of!(kvm_sregs, es) == 2 * SEGMENT
            && offset_of!(kvm_sregs, fs) == 3 * SEGMENT
            && offset_of!(kvm_sregs, gs) == 4 * SEGMENT
            && offset_of!(kvm_sregs, ss) == 5 * SEGMENT
            && offset_of!(kvm_sregs, tr) == 6 * SEGMENT
            && offset_of!(kvm_sregs, ldt) == 7 * SEGMENT
            && offset_of!(kvm_sregs, gdt) == 8 * SEGMENT
            && offset_of!(kvm_sregs, idt) == 8 * SEGMENT + TABLE
    );
    assert!(
        offset_of!(kvm_segment, present) == FIRST_RIGHT + 1
            && offset_of!(kvm_segment, dpl) == FIRST_RIGHT + 2
            && offset_of!(kvm_segment, db) == FIRST_RIGHT + 3
            && offset_of!(kvm_segment, s) == FIRST_RIGHT + 4
            && offset_of!(kvm_segment, l) == FIRST_RIGHT + 5
            && offset_of!(kvm_segment, g) == FIRST_RIGHT + 6
            && offset_of!(kvm_segment, avl) == FIRST_RIGHT + 7
    );
};
// Both begin alike.
const _: () = assert!(offset_of!(kvm_sregs, cr0) == offset_of!(kvm_sregs2, cr0));
const _: () = assert!(offset_of!(kvm_sregs, cr4) == offset_of!(kvm_sregs2, cr4));
const _: () = assert!(offset_of!(kvm_sregs, apic_base) == offset_of!(kvm_sregs2, apic_base));
// The interrupts are the last.
const _: () = assert!(offset_of!(kvm_sregs, interrupt_bitmap) + 32 == size_of::<kvm_sregs>());
