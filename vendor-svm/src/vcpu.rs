//! A vCPU's state that is SVM's, and what happens to it before and after a run.
use waterbear_core::Error;
use waterbear_core::arch::{Cr0, Event, Exception};
use waterbear_core::exit::Exit;
use waterbear_core::mem::{Box, boxed};
use waterbear_core::regs::{Regs, Switched};
use waterbear_hal::{CpuId, Hal, Hpa, Pfn};

use crate::asid::{Forget, Held};
use crate::by_hand::ByHand;
use crate::clean::Clean;
use crate::detect::Has;
use crate::event;
use crate::exit::{self, code};
use crate::intercept::{Control0, Debug0, Exceptions, Intercept3, Intercept4, Intercept5};
use crate::nmi::Nmi;
use crate::pages::Block;
use crate::vmcb::{self, InterruptState, VirtualInterrupt, Vmcb};

/// How many PAUSEs of one loop end the guest's run.
const PAUSE_COUNT: u16 = 3000;
/// How many cycles apart they may be.
const PAUSE_THRESHOLD: u16 = 128;

/// Where the permission maps are.
#[derive(Clone, Copy)]
pub struct Maps {
    /// That of ports.
    pub ports: Hpa,
    /// That of MSRs.
    pub msrs: Hpa,
}

/// A vCPU's state that is SVM's. What every vendor has comes first, so that it is in one place
/// whoever the vendor is.
#[repr(C)]
pub struct SvmVcpu<H: Hal> {
    pub(crate) regs: Regs,
    pub(crate) switched: Switched,
    pub(crate) block: Block<H>,
    /// What the CPUs have.
    pub(crate) has: Has,
    pub(crate) tsc_aux: u64,
    pub(crate) number: u64,
    pub(crate) held: Held,
    /// The next entry forgets what the TLB holds for this vCPU.
    pub(crate) flush: bool,
    /// CD and NW as the guest wrote them: the CPU runs with caches on.
    pub(crate) cache_bits: Cr0,
    /// The guest has not switched machine checks on. The CPU has: else one of the host's would shut
    /// it down.
    pub(crate) ignores_machine_checks: bool,
    pub(crate) nmi: Nmi,
    pub(crate) wants_interrupt: bool,
    /// To be delivered at the next entry, or cut short by the last exit.
    pub(crate) event: Option<Event>,
    /// While a run lasts: between `begin` and `end`.
    pub(crate) run: Option<Run>,
    soft: Option<Soft>,
    /// What the control block has been told to exit for.
    watched: Watch,
    maps: Maps,
}

/// What a run needs on its CPU, and what it has taken from the host.
pub(crate) struct Run {
    pub(crate) by_hand: ByHand,
    /// Where VMSAVE keeps the host's state.
    pub(crate) host: Hpa,
    /// The host's return predictions are to be overwritten after an exit.
    pub(crate) stuff: bool,
    pub(crate) cpu: CpuId,
}

bitflags::bitflags! {
    /// What exits at some times only.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Watch: u8 {
        /// The guest can take an interrupt.
        const WINDOW = 1 << 0;
        /// IRET.
        const IRET = 1 << 1;
        /// Every exception.
        const EXCEPTIONS = 1 << 2;
        /// Every access to CR0.
        const CR0 = 1 << 3;
        /// Reads of CR4.
        const CR4 = 1 << 4;
    }
}

/// A software event that is delivered by a CPU that cannot be told the address behind the
/// instruction: RIP is moved there, and back if delivery was cut short.
#[derive(Clone, Copy)]
struct Soft {
    rip: u64,
    next: u64,
    rsp: u64,
}

impl<H: Hal> SvmVcpu<H> {
    /// Makes one as [`Vendor::new_vcpu`](waterbear_core::vendor::Vendor::new_vcpu) says.
    #[inline(never)]
    pub(crate) fn new(hal: &H, number: u64, maps: Maps, has: Has) -> Result<Box<Self, H>, Error> {
        let vcpu = Self {
            regs: Regs::default(),
            switched: Switched::RESET,
            block: Block::new(hal)?,
            has,
            tsc_aux: 0,
            number,
            held: Held::default(),
            flush: true,
            cache_bits: Cr0::empty(),
            ignores_machine_checks: true,
            nmi: Nmi::default(),
            wants_interrupt: false,
            event: None,
            run: None,
            soft: None,
            watched: Watch::all(),
            maps,
        };
        let mut vcpu = boxed(hal, vcpu)?;
        vcpu.regs.rflags = 2;
        vcpu.reset();
        Ok(vcpu)
    }

    /// Fills the control block in, but for the TSC's offset and what each run writes.
    #[cold]
    fn reset(&mut self) {
        let maps = self.maps;
        let tsc_offset = self.block.fields().control.tsc_offset;
        self.block.clear();
        let block = self.block.fields();
        block.save.reset();
        let control = &mut block.control;
        control.tsc_offset = tsc_offset;
        control.intercept_debug = Debug0::ALL;
        control.intercept3 = Intercept3::ALWAYS;
        control.intercept4 = Intercept4::all();
        control.intercept5 = Intercept5::all();
        if self.has.contains(Has::PAUSE_FILTER) {
            control.intercept3 |= Intercept3::PAUSE;
            control.pause_count = PAUSE_COUNT;
            if self.has.contains(Has::PAUSE_THRESHOLD) {
                control.pause_threshold = PAUSE_THRESHOLD;
            }
        }
        control.iopm_base = maps.ports.0;
        control.msrpm_base = maps.msrs.0;
        control.nested_control = vmcb::NESTED_PAGING;
        self.cache_bits = Cr0::CD | Cr0::NW;
        self.ignores_machine_checks = true;
        // Not what any run wants: so the first one says what it does.
        self.watched = Watch::all();
        // The block has no ASID.
        self.held = Held::default();
    }

    /// Marks parts of the block as changed.
    pub(crate) fn stale(&mut self, what: Clean) {
        self.block.fields().control.clean.remove(what);
    }

    /// Whether the guest is in the shadow of STI or of a load of SS.
    pub(crate) fn in_shadow(&mut self) -> bool {
        let state = self.block.fields().control.interrupt_state;
        state.contains(InterruptState::SHADOW)
    }

    /// Fills in what a run needs, but for the TLB and the registers that an entry writes. Returns
    /// whether the guest need not be entered: a wanted window for an NMI is open already.
    pub(crate) fn prepare(&mut self, root: Pfn) -> bool {
        if self.nmi.is_busy() {
            let shadow = self.in_shadow();
            let idle = self.event.is_none();
            let dr6 = self.switched.dr6;
            if self.nmi.prepare(&self.regs, dr6, shadow, idle) {
                return true;
            }
        }
        let watch = self.watch();
        if watch != self.watched {
            self.watched = watch;
            self.set_intercepts(watch);
        }
        if let Some(event) = self.event {
            self.prepare_event(event);
        }
        let Self {
            block,
            switched,
            nmi,
            ..
        } = self;
        let block = block.fields();
        let (control, save) = (&mut block.control, &mut block.save);
        let mut stale = Clean::empty();
        let mut set = |field: &mut u64, value: u64, part| {
            if *field != value {
                *field = value;
                stale |= part;
            }
        };
        set(&mut control.nested_cr3, root.hpa().0, Clean::NESTED_PAGING);
        set(&mut save.cr2, switched.cr2, Clean::CR2);
        set(&mut save.dr6, nmi.dr6(switched.dr6), Clean::DEBUG_REGISTERS);
        set(&mut save.dr7, switched.dr7, Clean::DEBUG_REGISTERS);
        control.clean.remove(stale);
        false
    }

    /// Fills in the registers for an entry.
    #[inline(always)]
    pub(crate) fn write_registers(&mut self) {
        let Self {
            block,
            regs,
            nmi,
            soft,
            event,
            ..
        } = self;
        let Vmcb { control, save } = block.fields();
        if event.is_none() {
            control.event_injection = 0;
        }
        save.rax = regs.general[Regs::RAX];
        save.rsp = regs.general[Regs::RSP];
        save.rip = match soft {
            Some(soft) => soft.next,
            None => regs.rip,
        };
        save.rflags = nmi.flags(regs.rflags);
    }

    /// What exits this time beside what always does.
    fn watch(&self) -> Watch {
        let mut watch = Watch::empty();
        watch.set(Watch::WINDOW, self.wants_interrupt);
        watch.set(Watch::IRET, self.nmi.intercepts_iret());
        watch.set(Watch::EXCEPTIONS, self.nmi.steps());
        watch.set(Watch::CR0, !self.cache_bits.is_empty());
        watch.set(Watch::CR4, self.ignores_machine_checks);
        watch
    }

    fn set_intercepts(&mut self, watch: Watch) {
        let control = &mut self.block.fields().control;
        let window = watch.contains(Watch::WINDOW);
        control.intercept3.set(Intercept3::VINTR, window);
        let iret = watch.contains(Watch::IRET);
        control.intercept3.set(Intercept3::IRET, iret);
        control.intercept_control = Control0::ALWAYS;
        if watch.contains(Watch::CR0) {
            control.intercept_control |= Control0::CR0_DIFFERS;
        }
        if watch.contains(Watch::CR4) {
            control.intercept_control |= Control0::READ_CR4;
        }
        control.intercept_exceptions = if watch.contains(Watch::EXCEPTIONS) {
            Exceptions::ALL
        } else {
            Exceptions::ALWAYS
        };
        control.virtual_interrupt = VirtualInterrupt::MASKING;
        if window {
            control.virtual_interrupt |= VirtualInterrupt::PENDING | VirtualInterrupt::IGNORE_TPR;
        }
        let stale = Clean::INTERCEPTS | Clean::VIRTUAL_INTERRUPT;
        control.clean.remove(stale);
    }

    /// Writes the event that is to be delivered, and what it brings along.
    #[cold]
    fn prepare_event(&mut self, event: Event) {
        self.soft = None;
        if let Event::Exception(exception) = event {
            match exception.vector {
                Exception::PF => self.switched.cr2 = exception.payload,
                Exception::DB => self.switched.dr6 |= exception.payload & exit::DR6_CAUSES,
                _ => {}
            }
        }
        let block = self.block.fields();
        let cr0 = Cr0::from_bits_retain(block.save.cr0);
        block.control.event_injection = event::encode(event, cr0.contains(Cr0::PE));
        if let Some(length) = event::soft_length(event) {
            let rip = self.regs.rip;
            let wide = block.save.long_code();
            let next = rip.wrapping_add(length.into());
            let next = if wide { next } else { next & 0xffff_ffff };
            block.control.next_rip = next;
            // A CPU that has no decode assists may not look at it.
            if !self.has.contains(Has::NEXT_RIP | Has::DECODE_ASSISTS) {
                self.soft = Some(Soft {
                    rip,
                    next,
                    rsp: self.regs.general[Regs::RSP],
                });
            }
        }
    }

    /// Fills in what of the TLB the entry forgets, and what the CPU may have kept of the block.
    pub(crate) fn prepare_tlb(&mut self, held: Held, forget: Forget) {
        let moved = !held.same_generation(&self.held);
        let control = &mut self.block.fields().control;
        if moved {
            control.clean = Clean::empty();
        }
        if control.asid != held.asid() {
            control.asid = held.asid();
            control.clean.remove(Clean::ASID);
        }
        control.tlb_control = match forget {
            Forget::Nothing => vmcb::TLB_KEEP,
            Forget::Own => vmcb::TLB_FLUSH_ASID,
            Forget::All => vmcb::TLB_FLUSH_ALL,
        };
        self.held = held;
    }

    /// Takes the guest's state out of the block after a run; says why it ended.
    #[inline(always)]
    pub(crate) fn finish(&mut self) -> Exit {
        let Self {
            block,
            regs,
            switched,
            ..
        } = self;
        let block = block.fields();
        let (control, save) = (&mut block.control, &block.save);
        self.wants_interrupt = false;
        let why = exit::reason(control);
        control.tlb_control = vmcb::TLB_KEEP;
        if why == code::INVALID {
            // The guest has not run. Everything is as it was, and the event still waits; what the
            // block holds may not be the guest's.
            control.clean = Clean::empty();
            self.soft = None;
            self.nmi.cancel();
            return Exit::Refused(why);
        }
        control.clean = if self.has.contains(Has::CLEAN_BITS) {
            Clean::all()
        } else {
            Clean::empty()
        };
        regs.general[Regs::RAX] = save.rax;
        regs.general[Regs::RSP] = save.rsp;
        regs.rip = save.rip;
        regs.rflags = save.rflags;
        switched.cr2 = save.cr2;
        switched.dr7 = save.dr7;
        switched.dr6 = save.dr6;
        if self.event.is_some() || event::is_valid(control.exit_int_info) {
            self.finish_event();
        }
        let control = &self.block.fields().control;
        if why == code::SHUTDOWN {
            // What the block holds now is not defined.
            self.nmi = Nmi::default();
            self.reset();
            return Exit::Shutdown;
        }
        if self.nmi.is_busy() || why == code::DEBUG {
            return self.finish_debug(why);
        }
        exit::decode(control, self.has, 0)
    }

    /// The rest of it where an event was injected, or cut short.
    #[cold]
    fn finish_event(&mut self) {
        let Self { block, regs, .. } = self;
        let Vmcb { control, save } = block.fields();
        let cut_short = control.exit_int_info;
        if let Some(soft) = self.soft.take() {
            let delivered = regs.rip != soft.next || save.rsp != soft.rsp;
            if event::is_valid(cut_short) && !delivered {
                regs.rip = soft.rip;
            }
        }
        self.event = event::decode(cut_short, self.event.take(), save.cr2);
    }

    /// The rest of it where single steps may be involved.
    #[cold]
    fn finish_debug(&mut self, why: u64) -> Exit {
        let Self {
            block,
            regs,
            switched,
            nmi,
            has,
            ..
        } = self;
        let mut dr6 = switched.dr6;
        if why == code::DEBUG && dr6 & exit::DR6_CAUSES == 0 {
            // An emulator that leaves DR6 to the handler. Of the causes this one can be told.
            dr6 |= exit::step_of(regs.rflags);
        }
        let stepped = nmi.finish(why, regs.rip, &mut regs.rflags, dr6);
        switched.dr6 = stepped.dr6;
        let control = &block.fields().control;
        stepped
            .exit
            .unwrap_or_else(|| exit::decode(control, *has, stepped.causes))
    }
}
