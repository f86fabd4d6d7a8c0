//! A vendor whose guest is a script: at each entry it changes registers as the test says and
//! leaves for the reason that the test says.
//!
//! It keeps the guest's state in plain fields and holds the core to the contract of
//! [`Vendor`]: interrupts are off and the guest's FPU is loaded at an entry; one event at a time,
//! and only one that the guest can take.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use waterbear_core::Error;
use waterbear_core::arch::{
    Attributes, Event, Rflags, Segment, SegmentName, Shadow, TableName, TableRegister,
};
use waterbear_core::exit::Exit;
use waterbear_core::regs::{Regs, Switched};
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::{
    Control, EnableError, Hardware, Left, Msr, Registers, Unsupported, Vendor,
};
use waterbear_hal::{Cpu, CpuId, Pfn};
use waterbear_mock::MockHost;

use crate::Paging;

/// What the guest does between an entry and the exit.
type Deed = Box<dyn FnOnce(&mut ScriptedVcpu) + Send>;

/// One stay in the guest.
pub struct Scripted {
    exit: Exit,
    /// The length of the instruction that leaves, where the CPU tells it.
    length: u8,
    /// The delivery of the event is cut short.
    cut_short: bool,
    deed: Deed,
}

impl Scripted {
    /// The guest leaves for this reason, with an instruction of `length` bytes.
    pub fn exit(exit: Exit, length: u8) -> Self {
        Self {
            exit,
            length,
            cut_short: false,
            deed: Box::new(|_| {}),
        }
    }

    /// The guest does this first.
    pub fn after(mut self, deed: impl FnOnce(&mut ScriptedVcpu) + Send + 'static) -> Self {
        self.deed = Box::new(deed);
        self
    }

    /// The event that is delivered is not delivered.
    pub fn cut_short(mut self) -> Self {
        self.cut_short = true;
        self
    }
}

/// The vendor's state of a vCPU, for tests to look at and to change.
pub struct ScriptedVcpu {
    /// The registers.
    pub regs: Regs,
    /// Those that the vendor switches.
    pub switched: Switched,
    /// The segments, by number.
    pub segments: [Segment; 8],
    /// GDTR and IDTR.
    pub tables: [TableRegister; 2],
    /// CR0, CR3, CR4 and EFER.
    pub controls: [u64; 4],
    /// Registers that were set.
    pub msrs: BTreeMap<u8, u64>,
    /// The page-directory pointers that were set last.
    pub page_directories: Option<[u64; 4]>,
    /// The offset of the time-stamp counter.
    pub tsc_offset: u64,
    /// What holds events off.
    pub shadow: Shadow,
    /// The windows that are wanted: interrupt, NMI.
    pub windows: (bool, bool),
    /// What was delivered, in order.
    pub delivered: Vec<Event>,
    /// How often the guest was entered.
    pub entries: usize,
    /// How often it came from outside guest mode.
    pub ways_in: usize,
    /// How often the TLB was flushed.
    pub flushes: usize,
    /// The bytes that the CPU fetched, where it tells.
    pub fetched: Vec<u8>,
    injected: Option<Event>,
    undelivered: Option<Event>,
    /// May be injected although the guest would not take it now: its delivery had begun.
    begun: Option<Event>,
    /// The CPU that its state is in.
    inside: Option<CpuId>,
    length: u8,
    script: VecDeque<Scripted>,
}

impl ScriptedVcpu {
    /// Adds to what the guest will do.
    pub fn then(&mut self, step: Scripted) {
        self.script.push_back(step);
    }

    /// Forgets what the guest has not done yet.
    pub fn clear(&mut self) {
        self.script.clear();
    }

    /// How much the guest has not done yet.
    pub fn left(&self) -> usize {
        self.script.len()
    }

    /// A control register.
    pub fn control(&mut self, name: Control) -> &mut u64 {
        &mut self.controls[match name {
            Control::Cr0 => 0,
            Control::Cr3 => 1,
            Control::Cr4 => 2,
            Control::Efer => 3,
        }]
    }

    fn check(&mut self, event: Event) {
        if self.begun.take() == Some(event) {
            return;
        }
        let interrupts = self.regs.rflags & Rflags::IF.bits() != 0;
        match event {
            Event::Interrupt(_) => {
                assert!(interrupts, "an interrupt with RFLAGS.IF clear");
                let held = self.shadow.intersects(Shadow::STI | Shadow::MOV_SS);
                assert!(!held, "an interrupt in a shadow");
            }
            Event::Nmi => assert!(self.shadow.is_empty(), "an NMI that is held off"),
            Event::Exception(exception) => {
                let protected = self.controls[0] & 1 != 0;
                assert!(
                    protected || exception.error.is_none(),
                    "an error code in real mode"
                );
            }
            Event::SoftException { .. } | Event::SoftInterrupt { .. } => {}
        }
    }
}

/// The vendor.
pub struct ScriptedVendor {
    host: MockHost,
    /// What the next guest does.
    next: Mutex<VecDeque<Scripted>>,
}

impl ScriptedVendor {
    /// A vendor for a machine.
    pub fn new(host: &MockHost) -> Self {
        Self {
            host: host.clone(),
            next: Mutex::default(),
        }
    }

    /// Adds to the script of the next vCPU that is made, or of the next one that has come to the
    /// end of its own: for those that no test reaches.
    pub fn script(&self, steps: impl IntoIterator<Item = Scripted>) {
        self.next.lock().unwrap().extend(steps);
    }
}

impl Hardware for ScriptedVendor {
    fn name(&self) -> &'static str {
        "a script"
    }
    fn entry_format(&self) -> EntryFormat {
        Paging::Npt.format(Paging::ROOT)
    }
    fn check_cpu(&self, _: CpuId) -> Result<(), Unsupported> {
        Ok(())
    }
    fn is_enabled(&self, _: CpuId) -> bool {
        false
    }
    fn enable_cpu(&self, _: CpuId) -> Result<(), EnableError> {
        Ok(())
    }
    fn disable_cpu(&self, _: CpuId) {}
}

impl ScriptedVendor {
    /// One entry.
    fn enter_once(&self, vcpu: &mut ScriptedVcpu) -> Exit {
        assert!(!self.host.irq_disable(), "entered with interrupts on");
        assert!(self.host.has_guest_fpu(), "entered with the host's FPU");
        assert!(vcpu.inside.is_some(), "entered with the host's state");
        assert_eq!(vcpu.undelivered, None, "an event was left behind");
        vcpu.entries += 1;
        vcpu.begun = None;
        let step = vcpu
            .script
            .pop_front()
            .or_else(|| self.next.lock().unwrap().pop_front());
        let step = step.expect("the guest runs, and its script is over");
        let event = vcpu.injected.take();
        vcpu.shadow &= Shadow::NMI;
        if event == Some(Event::Nmi) {
            vcpu.shadow |= Shadow::NMI;
        }
        match event {
            Some(event) if step.cut_short => vcpu.undelivered = Some(event),
            Some(event) => vcpu.delivered.push(event),
            None => {}
        }
        (step.deed)(vcpu);
        vcpu.length = step.length;
        step.exit
    }
}

impl Registers for ScriptedVcpu {
    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }

    fn switched(&mut self) -> &mut Switched {
        &mut self.switched
    }
}

impl Vendor for ScriptedVendor {
    type Vcpu = ScriptedVcpu;

    fn new_vcpu(&self) -> Result<ScriptedVcpu, Error> {
        let data = Segment {
            selector: 0,
            attributes: Attributes::from_bits_retain(0x93),
            limit: 0xffff,
            base: 0,
        };
        Ok(ScriptedVcpu {
            regs: Regs {
                rflags: 2,
                ..Regs::default()
            },
            switched: Switched::RESET,
            segments: [data; 8],
            tables: [TableRegister::default(); 2],
            controls: [0x6000_0010, 0, 0, 0],
            msrs: BTreeMap::new(),
            page_directories: None,
            tsc_offset: 0,
            shadow: Shadow::empty(),
            windows: (false, false),
            delivered: Vec::new(),
            entries: 0,
            ways_in: 0,
            flushes: 0,
            fetched: Vec::new(),
            injected: None,
            undelivered: None,
            begun: None,
            inside: None,
            length: 0,
            script: std::mem::take(&mut *self.next.lock().unwrap()),
        })
    }

    fn switch_in(&self, vcpu: &mut ScriptedVcpu, cpu: CpuId, _: Pfn) -> Result<(), Exit> {
        assert!(!self.host.irq_disable(), "switched in with interrupts on");
        assert_eq!(vcpu.inside.replace(cpu), None, "switched in twice");
        vcpu.ways_in += 1;
        Ok(())
    }

    fn enter(&self, vcpu: &mut ScriptedVcpu) -> Left {
        let exit = self.enter_once(vcpu);
        Left {
            exit,
            whole: vcpu.undelivered.is_none(),
        }
    }

    fn switch_out(&self, vcpu: &mut ScriptedVcpu) {
        assert!(!self.host.irq_disable(), "switched out with interrupts on");
        let cpu = vcpu.inside.take();
        assert_eq!(cpu, Some(self.host.current_cpu()), "switched out elsewhere");
    }

    fn flush_tlb(&self, vcpu: &mut ScriptedVcpu) {
        vcpu.flushes += 1;
    }

    fn length(&self, vcpu: &mut ScriptedVcpu) -> u8 {
        vcpu.length
    }

    fn fetched<'a>(&self, vcpu: &'a mut ScriptedVcpu) -> &'a [u8] {
        &vcpu.fetched
    }

    fn segment(&self, vcpu: &mut ScriptedVcpu, name: SegmentName) -> Segment {
        vcpu.segments[name as usize]
    }

    fn set_segment(&self, vcpu: &mut ScriptedVcpu, name: SegmentName, value: Segment) {
        vcpu.segments[name as usize] = value;
    }

    fn table(&self, vcpu: &mut ScriptedVcpu, name: TableName) -> TableRegister {
        vcpu.tables[name as usize]
    }

    fn set_table(&self, vcpu: &mut ScriptedVcpu, name: TableName, value: TableRegister) {
        vcpu.tables[name as usize] = value;
    }

    fn cpl(&self, vcpu: &mut ScriptedVcpu) -> u8 {
        vcpu.segments[SegmentName::Ss as usize].attributes.dpl()
    }

    fn control(&self, vcpu: &mut ScriptedVcpu, name: Control) -> u64 {
        *vcpu.control(name)
    }

    fn set_control(&self, vcpu: &mut ScriptedVcpu, name: Control, value: u64) {
        *vcpu.control(name) = value;
    }

    fn set_page_directories(&self, vcpu: &mut ScriptedVcpu, entries: [u64; 4]) {
        vcpu.page_directories = Some(entries);
    }

    fn msr(&self, vcpu: &mut ScriptedVcpu, msr: Msr) -> u64 {
        vcpu.msrs.get(&(msr as u8)).copied().unwrap_or(0)
    }

    fn set_msr(&self, vcpu: &mut ScriptedVcpu, msr: Msr, value: u64) {
        vcpu.msrs.insert(msr as u8, value);
    }

    fn set_tsc_offset(&self, vcpu: &mut ScriptedVcpu, offset: u64) {
        vcpu.tsc_offset = offset;
    }

    fn inject(&self, vcpu: &mut ScriptedVcpu, event: Event) {
        assert_eq!(vcpu.injected, None, "two events at once");
        vcpu.check(event);
        vcpu.injected = Some(event);
    }

    fn take_undelivered(&self, vcpu: &mut ScriptedVcpu) -> Option<Event> {
        let event = vcpu.injected.take().or(vcpu.undelivered.take());
        vcpu.begun = event;
        event
    }

    fn shadow(&self, vcpu: &mut ScriptedVcpu) -> Shadow {
        vcpu.shadow
    }

    fn set_shadow(&self, vcpu: &mut ScriptedVcpu, shadow: Shadow) {
        vcpu.shadow = shadow;
    }

    fn want_windows(&self, vcpu: &mut ScriptedVcpu, interrupt: bool, nmi: bool) {
        vcpu.windows = (interrupt, nmi);
    }
}
