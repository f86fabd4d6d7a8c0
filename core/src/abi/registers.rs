//! General and special registers, as the interface has them.
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field};
use super::kvm::{self, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_sregs2};
use super::vcpu::{Context, State};
use super::{Answer, DONE};
use crate::Error;
use crate::arch::{Attributes, Cr0, Cr4, Efer, Segment, SegmentName, TableName, TableRegister};
use crate::regs::Regs;
use crate::run::control::in_pae_mode;
use crate::run::event::Events;
use crate::run::msr::index::APIC_BASE;
use crate::vendor::{Control, Vendor};
use crate::vm::Vm;

const REGS: usize = size_of::<kvm_regs>();
const SREGS: usize = size_of::<kvm_sregs>();
const SREGS2: usize = size_of::<kvm_sregs2>();
/// KVM_SREGS2_FLAGS_PDPTRS_VALID: the page-directory pointers are there.
const POINTERS_VALID: u64 = 1;

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
        let mut bytes = [0; SREGS];
        self.special_out(context.vendor, &mut bytes);
        if let Some(vector) = self.cpu.events().interrupt {
            let at = offset_of!(kvm_sregs, interrupt_bitmap) + usize::from(vector) / 8;
            bytes::put(&mut bytes, at, &[1 << (vector % 8)]);
        }
        context.caller.copy_out(context.argument, &bytes)?;
        DONE
    }

    pub(super) fn set_sregs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let sent: [u8; SREGS] = bytes::structure(context.caller, context.argument)?;
        self.special_in(context.vm.vm(), context.vendor, &sent)?;
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

    /// The same with the page-directory pointers of PAE mode, and without interrupts.
    pub(super) fn get_sregs2<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let (vm, vendor) = (context.vm.vm(), context.vendor);
        let mut bytes = [0; SREGS2];
        self.special_out(vendor, &mut bytes);
        if let Some(pointers) = self.cpu.page_directories(vm, vendor) {
            set_field!(bytes, kvm_sregs2.flags = POINTERS_VALID);
            let at = offset_of!(kvm_sregs2, pdptrs);
            bytes::put(
                &mut bytes,
                at,
                pointers.map(u64::to_le_bytes).as_flattened(),
            );
        }
        context.caller.copy_out(context.argument, &bytes)?;
        DONE
    }

    pub(super) fn set_sregs2<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let vendor = context.vendor;
        let sent: [u8; SREGS2] = bytes::structure(context.caller, context.argument)?;
        let flags = field!(sent, kvm_sregs2.flags: u64);
        let cr0 = Cr0::from_bits_retain(field!(sent, kvm_sregs2.cr0: u64));
        let cr4 = Cr4::from_bits_retain(field!(sent, kvm_sregs2.cr4: u64));
        let efer = Efer::from_bits_retain(field!(sent, kvm_sregs2.efer: u64));
        let has_pointers = in_pae_mode(cr0, cr4, efer);
        if flags & !POINTERS_VALID != 0 || flags != 0 && !has_pointers {
            return Err(Error::Invalid.into());
        }
        self.special_in(context.vm.vm(), vendor, &sent)?;
        if flags != 0 {
            const FIRST: usize = offset_of!(kvm_sregs2, pdptrs);
            let pointers = [0, 8, 16, 24].map(|at| bytes::u64(&sent, FIRST + at));
            vendor.set_page_directories(self.cpu.state(), pointers);
        }
        DONE
    }

    /// Fills in what both structures begin with.
    fn special_out(&mut self, vendor: &V, bytes: &mut [u8]) {
        for (name, at) in SEGMENTS {
            let segment = vendor.segment(self.cpu.state(), name);
            bytes::put(bytes, at, &segment_out(&segment));
        }
        for (name, at) in TABLES {
            let table = vendor.table(self.cpu.state(), name);
            let mut part = [0; size_of::<kvm_dtable>()];
            set_field!(part, kvm_dtable.base = table.base);
            set_field!(part, kvm_dtable.limit = table.limit);
            bytes::put(bytes, at, &part);
        }
        let state = self.cpu.state();
        let values = [
            vendor.control(state, Control::Cr0),
            vendor.switched(state).cr2,
            vendor.control(state, Control::Cr3),
            vendor.control(state, Control::Cr4),
            self.cpu.cr8(),
            vendor.control(self.cpu.state(), Control::Efer),
            self.cpu.msr(vendor, APIC_BASE).unwrap_or(0),
        ];
        let at = offset_of!(kvm_sregs, cr0);
        bytes::put(bytes, at, values.map(u64::to_le_bytes).as_flattened());
    }

    /// Sets what both structures begin with.
    fn special_in(&mut self, vm: &Vm<H>, vendor: &V, sent: &[u8]) -> Result<(), Error> {
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
        let old = self.cpu.msr(vendor, APIC_BASE)?;
        let apic_base = field!(sent, kvm_sregs.apic_base: u64);
        self.cpu.set_msr(vendor, APIC_BASE, apic_base)?;
        let set = self.cpu.set_controls(vm, vendor, controls);
        if set.is_err() {
            self.cpu.set_msr(vendor, APIC_BASE, old)?;
        }
        set?;
        self.cpu.set_cr8(cr8)?;
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
        Ok(())
    }
}

const _: () = assert!(kvm::KVM_GET_REGS >> 16 & 0x3fff == REGS as u32);
const _: () = assert!(kvm::KVM_GET_SREGS >> 16 & 0x3fff == SREGS as u32);
const _: () = assert!(kvm::KVM_GET_SREGS2 >> 16 & 0x3fff == SREGS2 as u32);
// Both begin alike, and the control registers stand beside each other in this order.
const _: () = assert!(offset_of!(kvm_sregs, cr0) == offset_of!(kvm_sregs2, cr0));
const _: () = assert!(offset_of!(kvm_sregs, cr2) == offset_of!(kvm_sregs, cr0) + 8);
const _: () = assert!(offset_of!(kvm_sregs, cr3) == offset_of!(kvm_sregs, cr0) + 16);
const _: () = assert!(offset_of!(kvm_sregs, cr4) == offset_of!(kvm_sregs, cr0) + 24);
const _: () = assert!(offset_of!(kvm_sregs, cr8) == offset_of!(kvm_sregs, cr0) + 32);
const _: () = assert!(offset_of!(kvm_sregs, efer) == offset_of!(kvm_sregs, cr0) + 40);
const _: () = assert!(offset_of!(kvm_sregs, apic_base) == offset_of!(kvm_sregs, cr0) + 48);
const _: () = assert!(offset_of!(kvm_sregs, apic_base) == offset_of!(kvm_sregs2, apic_base));
