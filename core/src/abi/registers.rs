//! General and special registers, as the interface has them.
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field};
use super::kvm::{self, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use super::vcpu::{Context, State};
use super::{Answer, DONE};
use crate::Error;
use crate::arch::{Attributes, Segment, SegmentName, TableName, TableRegister};
use crate::regs::Regs;
use crate::run::event::Events;
use crate::run::msr::index::APIC_BASE;
use crate::vendor::{Control, Vendor};

const REGS: usize = size_of::<kvm_regs>();
const SREGS: usize = size_of::<kvm_sregs>();

/// Where the interface has each general register, in the order of their numbers.
const GENERAL: [usize; 16] = [
    offset_of!(kvm_regs, rax),
    offset_of!(kvm_regs, rcx),
    offset_of!(kvm_regs, rdx),
    offset_of!(kvm_regs, rbx),
    offset_of!(kvm_regs, rsp),
    offset_of!(kvm_regs, rbp),
    offset_of!(kvm_regs, rsi),
    offset_of!(kvm_regs, rdi),
    offset_of!(kvm_regs, r8),
    offset_of!(kvm_regs, r9),
    offset_of!(kvm_regs, r10),
    offset_of!(kvm_regs, r11),
    offset_of!(kvm_regs, r12),
    offset_of!(kvm_regs, r13),
    offset_of!(kvm_regs, r14),
    offset_of!(kvm_regs, r15),
];

/// Where the interface has each segment register.
const SEGMENTS: [(SegmentName, usize); 8] = [
    (SegmentName::Cs, offset_of!(kvm_sregs, cs)),
    (SegmentName::Ds, offset_of!(kvm_sregs, ds)),
    (SegmentName::Es, offset_of!(kvm_sregs, es)),
    (SegmentName::Fs, offset_of!(kvm_sregs, fs)),
    (SegmentName::Gs, offset_of!(kvm_sregs, gs)),
    (SegmentName::Ss, offset_of!(kvm_sregs, ss)),
    (SegmentName::Tr, offset_of!(kvm_sregs, tr)),
    (SegmentName::Ldtr, offset_of!(kvm_sregs, ldt)),
];

/// Where the interface has the descriptor-table registers.
const TABLES: [(TableName, usize); 2] = [
    (TableName::Gdtr, offset_of!(kvm_sregs, gdt)),
    (TableName::Idtr, offset_of!(kvm_sregs, idt)),
];

/// A bit of a segment's rights that the interface has as a byte.
const FLAGS: [(Attributes, usize); 6] = [
    (Attributes::CODE_OR_DATA, offset_of!(kvm_segment, s)),
    (Attributes::PRESENT, offset_of!(kvm_segment, present)),
    (Attributes::AVAILABLE, offset_of!(kvm_segment, avl)),
    (Attributes::LONG, offset_of!(kvm_segment, l)),
    (Attributes::BIG, offset_of!(kvm_segment, db)),
    (Attributes::GRANULARITY, offset_of!(kvm_segment, g)),
];

fn segment_in(sent: &[u8]) -> Segment {
    let mut bits = u16::from(field!(sent, kvm_segment.type_: u8) & 0xf);
    bits |= u16::from(field!(sent, kvm_segment.dpl: u8) & 3) << 5;
    for (flag, at) in FLAGS {
        if bytes::u8(sent, at) != 0 {
            bits |= flag.bits();
        }
    }
    let mut attributes = Attributes::from_bits_truncate(bits);
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

fn segment_out(segment: &Segment) -> [u8; size_of::<kvm_segment>()] {
    let mut bytes = [0; size_of::<kvm_segment>()];
    let attributes = segment.attributes;
    set_field!(bytes, kvm_segment.selector = segment.selector);
    set_field!(bytes, kvm_segment.limit = segment.limit);
    set_field!(bytes, kvm_segment.base = segment.base);
    set_field!(bytes, kvm_segment.type_ = attributes.kind());
    set_field!(bytes, kvm_segment.dpl = attributes.dpl());
    for (flag, at) in FLAGS {
        bytes::put(&mut bytes, at, &[u8::from(attributes.contains(flag))]);
    }
    let usable = attributes.contains(Attributes::PRESENT);
    set_field!(bytes, kvm_segment.unusable = u8::from(!usable));
    bytes
}

impl<H: Hal, V: Vendor> State<H, V> {
    pub(super) fn get_regs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let regs = context.vendor.regs(self.cpu.state());
        let mut bytes = [0; REGS];
        for (value, at) in regs.general.iter().zip(GENERAL) {
            bytes::put(&mut bytes, at, &value.to_le_bytes());
        }
        set_field!(bytes, kvm_regs.rip = regs.rip);
        set_field!(bytes, kvm_regs.rflags = regs.rflags);
        context.caller.copy_out(context.argument, &bytes)?;
        DONE
    }

    pub(super) fn set_regs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        /// Bits of RFLAGS that are always the same: one is set.
        const FIXED: u64 = !0x3f_7fd7;
        let sent: [u8; REGS] = bytes::structure(context.caller, context.argument)?;
        let mut regs = Regs::default();
        for (value, at) in regs.general.iter_mut().zip(GENERAL) {
            *value = bytes::u64(&sent, at);
        }
        regs.rip = field!(sent, kvm_regs.rip: u64);
        regs.rflags = field!(sent, kvm_regs.rflags: u64) & !FIXED | 2;
        let old = context.vendor.regs(self.cpu.state());
        let elsewhere = old.rip != regs.rip;
        *old = regs;
        if elsewhere {
            self.cpu.abandon();
        }
        DONE
    }

    pub(super) fn get_sregs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let vendor = context.vendor;
        let mut bytes = [0; SREGS];
        for (name, at) in SEGMENTS {
            let segment = vendor.segment(self.cpu.state(), name);
            bytes::put(&mut bytes, at, &segment_out(&segment));
        }
        for (name, at) in TABLES {
            let table = vendor.table(self.cpu.state(), name);
            let mut part = [0; size_of::<kvm_dtable>()];
            set_field!(part, kvm_dtable.base = table.base);
            set_field!(part, kvm_dtable.limit = table.limit);
            bytes::put(&mut bytes, at, &part);
        }
        let state = self.cpu.state();
        set_field!(bytes, kvm_sregs.cr0 = vendor.control(state, Control::Cr0));
        set_field!(bytes, kvm_sregs.cr2 = vendor.switched(state).cr2);
        set_field!(bytes, kvm_sregs.cr3 = vendor.control(state, Control::Cr3));
        set_field!(bytes, kvm_sregs.cr4 = vendor.control(state, Control::Cr4));
        set_field!(bytes, kvm_sregs.efer = vendor.control(state, Control::Efer));
        set_field!(bytes, kvm_sregs.cr8 = self.cpu.cr8());
        let apic_base = self.cpu.msr(vendor, APIC_BASE).unwrap_or(0);
        set_field!(bytes, kvm_sregs.apic_base = apic_base);
        if let Some(vector) = self.cpu.events().interrupt {
            let at = offset_of!(kvm_sregs, interrupt_bitmap) + usize::from(vector) / 8;
            bytes::put(&mut bytes, at, &[1 << (vector % 8)]);
        }
        context.caller.copy_out(context.argument, &bytes)?;
        DONE
    }

    pub(super) fn set_sregs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let vendor = context.vendor;
        let sent: [u8; SREGS] = bytes::structure(context.caller, context.argument)?;
        let cr8 = field!(sent, kvm_sregs.cr8: u64);
        if cr8 > 15 {
            return Err(Error::Invalid.into());
        }
        let controls = [
            field!(sent, kvm_sregs.cr0: u64),
            field!(sent, kvm_sregs.cr3: u64),
            field!(sent, kvm_sregs.cr4: u64),
            field!(sent, kvm_sregs.efer: u64),
        ];
        self.cpu.set_controls(context.vm.vm(), vendor, controls)?;
        self.cpu.set_cr8(cr8)?;
        let apic_base = field!(sent, kvm_sregs.apic_base: u64);
        self.cpu.set_msr(vendor, APIC_BASE, apic_base)?;
        vendor.switched(self.cpu.state()).cr2 = field!(sent, kvm_sregs.cr2: u64);
        for (name, at) in SEGMENTS {
            let segment = segment_in(sent.get(at..).unwrap_or_default());
            vendor.set_segment(self.cpu.state(), name, segment);
        }
        for (name, at) in TABLES {
            let part = sent.get(at..).unwrap_or_default();
            let table = TableRegister {
                base: field!(part, kvm_dtable.base: u64),
                limit: field!(part, kvm_dtable.limit: u16),
            };
            vendor.set_table(self.cpu.state(), name, table);
        }
        // The lowest vector of those that are set; an interrupt that waits
        // already is replaced.
        let bitmap = (0..=u8::MAX).find(|vector| {
            let at = offset_of!(kvm_sregs, interrupt_bitmap) + usize::from(*vector) / 8;
            bytes::u8(&sent, at) & 1 << (vector % 8) != 0
        });
        let events = Events {
            interrupt: bitmap,
            ..*self.cpu.events()
        };
        self.cpu.set_events(events)?;
        DONE
    }
}

const _: () = assert!(kvm::KVM_GET_REGS >> 16 & 0x3fff == REGS as u32);
const _: () = assert!(kvm::KVM_GET_SREGS >> 16 & 0x3fff == SREGS as u32);
