//! The core's hooks: mostly fields of the control block.
use waterbear_core::Error;
use waterbear_core::arch::{
    Cr0, Cr4, Event, Segment, SegmentName, Shadow, TableName, TableRegister,
};
use waterbear_core::exit::Exit;
use waterbear_core::mem::Box;
use waterbear_core::regs::{Regs, Switched};
use waterbear_core::vendor::{Control, Left, Msr, Registers, Vendor};
use waterbear_hal::{CpuId, Hal, Pfn};

use crate::clean::Clean;
use crate::detect::Has;
use crate::exit::{code, reason};
use crate::segment;
use crate::svm::Svm;
use crate::vcpu::SvmVcpu;
use crate::vmcb::{EFER_SVME, InterruptState, Vmcb};

/// The longest instruction in bytes.
const MAX_LENGTH: u64 = 15;

impl<H: Hal> Registers for SvmVcpu<H> {
    #[inline(always)]
    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }

    #[inline(always)]
    fn switched(&mut self) -> &mut Switched {
        &mut self.switched
    }
}

impl<H: Hal> Vendor for Svm<H> {
    type Vcpu = Box<SvmVcpu<H>, H>;

    fn new_vcpu(&self) -> Result<Box<SvmVcpu<H>, H>, Error> {
        self.vcpu()
    }

    #[inline(always)]
    fn switch_in(&self, vcpu: &mut Box<SvmVcpu<H>, H>, cpu: CpuId, root: Pfn) -> Result<(), Exit> {
        self.begin(vcpu, cpu, root)
    }

    #[inline(always)]
    fn enter(&self, vcpu: &mut Box<SvmVcpu<H>, H>) -> Left {
        self.enter_once(vcpu)
    }

    #[inline(always)]
    fn switch_out(&self, vcpu: &mut Box<SvmVcpu<H>, H>) {
        self.end(vcpu);
    }

    fn flush_tlb(&self, vcpu: &mut Box<SvmVcpu<H>, H>) {
        vcpu.flush = true;
    }

    fn length(&self, vcpu: &mut Box<SvmVcpu<H>, H>) -> u8 {
        let has = vcpu.has;
        let block = vcpu.block.fields();
        let control = &block.control;
        let next = match reason(control) {
            // The one exit where every CPU tells it.
            code::IOIO => control.exit_info2,
            _ if has.contains(Has::NEXT_RIP) => control.next_rip,
            _ => return 0,
        };
        let length = next.wrapping_sub(block.save.rip);
        let length = if block.save.long_code() {
            length
        } else {
            length & 0xffff_ffff
        };
        match length {
            1..=MAX_LENGTH => length as u8,
            _ => 0,
        }
    }

    fn fetched<'a>(&self, vcpu: &'a mut Box<SvmVcpu<H>, H>) -> &'a [u8] {
        let has = vcpu.has;
        let control = &vcpu.block.fields().control;
        let told = has.contains(Has::DECODE_ASSISTS)
            && matches!(reason(control), code::NPF | code::PAGE_FAULT);
        let count = if told { control.fetched_count } else { 0 };
        control.fetched.get(..count.into()).unwrap_or_default()
    }

    fn segment(&self, vcpu: &mut Box<SvmVcpu<H>, H>, name: SegmentName) -> Segment {
        segment::get(&vcpu.block.fields().save, name)
    }

    fn set_segment(&self, vcpu: &mut Box<SvmVcpu<H>, H>, name: SegmentName, value: Segment) {
        let stale = segment::set(&mut vcpu.block.fields().save, name, value);
        vcpu.stale(stale);
    }

    fn table(&self, vcpu: &mut Box<SvmVcpu<H>, H>, name: TableName) -> TableRegister {
        segment::table(&vcpu.block.fields().save, name)
    }

    fn set_table(&self, vcpu: &mut Box<SvmVcpu<H>, H>, name: TableName, value: TableRegister) {
        let stale = segment::set_table(&mut vcpu.block.fields().save, name, value);
        vcpu.stale(stale);
    }

    fn cpl(&self, vcpu: &mut Box<SvmVcpu<H>, H>) -> u8 {
        vcpu.block.fields().save.cpl & 3
    }

    fn control(&self, vcpu: &mut Box<SvmVcpu<H>, H>, name: Control) -> u64 {
        let hidden = vcpu.cache_bits.bits();
        let ours = if vcpu.ignores_machine_checks {
            Cr4::MCE.bits()
        } else {
            0
        };
        let save = &vcpu.block.fields().save;
        match name {
            Control::Cr0 => save.cr0 | hidden,
            Control::Cr3 => save.cr3,
            Control::Cr4 => save.cr4 & !ours,
            Control::Efer => save.efer & !EFER_SVME,
        }
    }

    fn set_control(&self, vcpu: &mut Box<SvmVcpu<H>, H>, name: Control, value: u64) {
        const CACHE_BITS: Cr0 = Cr0::CD.union(Cr0::NW);
        let SvmVcpu {
            block,
            cache_bits,
            ignores_machine_checks,
            ..
        } = &mut **vcpu;
        let Vmcb { control, save } = block.fields();
        control.clean.remove(Clean::CONTROL_REGISTERS);
        match name {
            Control::Cr0 => {
                *cache_bits = Cr0::from_bits_retain(value) & CACHE_BITS;
                save.cr0 = value & !CACHE_BITS.bits();
            }
            Control::Cr3 => save.cr3 = value,
            Control::Cr4 => {
                *ignores_machine_checks = !Cr4::from_bits_retain(value).contains(Cr4::MCE);
                save.cr4 = value | Cr4::MCE.bits();
            }
            Control::Efer => save.efer = value | EFER_SVME,
        }
    }

    fn set_page_directories(&self, _: &mut Box<SvmVcpu<H>, H>, _entries: [u64; 4]) {
        // With nested paging the CPU reads them from the guest's memory when it needs them.
    }

    fn msr(&self, vcpu: &mut Box<SvmVcpu<H>, H>, msr: Msr) -> u64 {
        *field(vcpu, msr)
    }

    fn set_msr(&self, vcpu: &mut Box<SvmVcpu<H>, H>, msr: Msr, value: u64) {
        *field(vcpu, msr) = value;
        if msr == Msr::Pat {
            vcpu.stale(Clean::NESTED_PAGING);
        }
    }

    fn set_tsc_offset(&self, vcpu: &mut Box<SvmVcpu<H>, H>, offset: u64) {
        vcpu.block.fields().control.tsc_offset = offset;
        vcpu.stale(Clean::INTERCEPTS);
    }

    fn inject(&self, vcpu: &mut Box<SvmVcpu<H>, H>, event: Event) {
        if event == Event::Nmi {
            vcpu.nmi.set_masked(true);
        }
        vcpu.event = Some(event);
    }

    fn take_undelivered(&self, vcpu: &mut Box<SvmVcpu<H>, H>) -> Option<Event> {
        let event = vcpu.event.take();
        if event == Some(Event::Nmi) {
            vcpu.nmi.set_masked(false);
        }
        event
    }

    fn shadow(&self, vcpu: &mut Box<SvmVcpu<H>, H>) -> Shadow {
        let mut shadow = Shadow::empty();
        shadow.set(Shadow::MOV_SS, vcpu.in_shadow());
        shadow.set(Shadow::NMI, vcpu.nmi.masked());
        shadow
    }

    fn set_shadow(&self, vcpu: &mut Box<SvmVcpu<H>, H>, shadow: Shadow) {
        let state = &mut vcpu.block.fields().control.interrupt_state;
        let held_off = shadow.intersects(Shadow::STI | Shadow::MOV_SS);
        state.set(InterruptState::SHADOW, held_off);
        let masked = shadow.contains(Shadow::NMI);
        if masked != vcpu.nmi.masked() {
            vcpu.nmi.set_masked(masked);
        }
    }

    fn want_windows(&self, vcpu: &mut Box<SvmVcpu<H>, H>, interrupt: bool, nmi: bool) {
        vcpu.wants_interrupt = interrupt;
        vcpu.nmi.want(nmi);
    }
}

/// Where an MSR is: those that VMLOAD switches come first in [`Msr`], in the block's order.
fn field<H: Hal>(vcpu: &mut SvmVcpu<H>, msr: Msr) -> &mut u64 {
    let SvmVcpu { block, tsc_aux, .. } = vcpu;
    let save = &mut block.fields().save;
    match save.msrs.get_mut(msr as usize) {
        Some(field) => field,
        None if msr == Msr::Pat => &mut save.pat,
        None => tsc_aux,
    }
}
