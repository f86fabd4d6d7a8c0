//! VMX as the core's vendor.
#![expect(unsafe_code, reason = "what the core promises is passed on")]
use waterbear_core::Error;
use waterbear_core::arch::{
    Attributes, Cr4, Efer, Event, Segment, SegmentName, Shadow, TableName, TableRegister,
};
use waterbear_core::exit::Exit;
use waterbear_core::mem::{Box, Shared};
use waterbear_core::regs::{Regs, Switched};
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::{
    Code, Control, EnableError, Hardware, Left, Msr, Registers, Unsupported, Vendor,
};
use waterbear_hal::{CpuId, Hal, Pfn, Pinned};
use x86::vmx::vmcs::{control, guest};

use crate::blocking;
use crate::controls::Controls;
use crate::cpu;
use crate::detect::Features;
use crate::machine::Machine;
use crate::rights;
use crate::vcpu::{CR0_GUEST, VmxVcpu};

/// Intel's hardware virtualisation on this machine.
pub struct Vmx<H: Hal> {
    hal: H,
    format: EntryFormat,
    machine: Shared<Machine<H>, H>,
}

impl<H: Hal> Vmx<H> {
    /// Looks at this CPU and allocates what the CPUs below `cpus` need. Changes
    /// nothing. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] when this CPU cannot host guests, which the log
    /// says in words; [`Error::NoMemory`].
    pub fn new(hal: &H, cpus: u32) -> Result<Self, Error> {
        let refused = |reason: Unsupported| reason.refuse(hal, "VMX");
        let features = cpu::facts().features().map_err(refused)?;
        let controls = Controls::new(&features.controls).map_err(refused)?;
        let Ok(format) = features.entry_format() else {
            return Err(refused(Unsupported::UnknownFormat));
        };
        let machine = Machine::new(hal, cpus, features, controls)?;
        Ok(Self {
            hal: hal.clone(),
            format,
            machine: Shared::new(hal, machine)?,
        })
    }

    /// What this CPU has.
    pub fn features(&self) -> &Features {
        &self.machine.features
    }

    /// Replaces the numbers of fields by what is in them; by zeros when VMX operation is off, as it
    /// is when the machine goes down.
    #[inline(never)]
    fn read_all(&self, vcpu: &mut VmxVcpu<H>, fields: &mut [u64]) {
        let pinned = Pinned::new(&self.hal);
        // SAFETY: pinned until the end; the hooks are called with interrupts on.
        let current = unsafe { vcpu.bring(pinned.cpu()) };
        for field in fields {
            *field = match &current {
                Some(current) => current.read(*field as u32),
                None => 0,
            };
        }
    }

    /// Reads a field.
    fn read(&self, vcpu: &mut VmxVcpu<H>, field: u32) -> u64 {
        let mut fields = [field.into()];
        self.read_all(vcpu, &mut fields);
        fields[0]
    }

    /// Writes fields, each with its value; nothing when VMX operation is off.
    #[inline(never)]
    fn write_all(&self, vcpu: &mut VmxVcpu<H>, writes: &[(u32, u64)]) {
        let pinned = Pinned::new(&self.hal);
        // SAFETY: as above.
        if let Some(current) = unsafe { vcpu.bring(pinned.cpu()) } {
            current.write_all(writes);
        }
    }
}

impl<H: Hal> Hardware for Vmx<H> {
    fn name(&self) -> &'static str {
        "VMX"
    }

    fn entry_format(&self) -> EntryFormat {
        self.format
    }

    fn limit_cpuid(&self, function: u32, index: u32, answer: [u32; 4]) -> [u32; 4] {
        self.machine.controls.limit_cpuid(function, index, answer)
    }

    fn check_cpu(&self, cpu: CpuId) -> Result<(), Unsupported> {
        if cpu as usize >= self.machine.cpus.count() {
            return Err(Unsupported::NumberTooHigh);
        }
        let mut here = cpu::facts().features()?;
        // Whether it is locked is not a feature: the first CPU's may be locked
        // by us already.
        here.unlocked = self.machine.features.unlocked;
        if here == self.machine.features {
            Ok(())
        } else {
            Err(Unsupported::Differs)
        }
    }

    fn is_enabled(&self, _cpu: CpuId) -> bool {
        cpu::is_enabled()
    }

    fn enable_cpu(&self, cpu: CpuId) -> Result<(), EnableError> {
        if cpu::is_enabled() {
            return Err(EnableError::Busy);
        }
        // SAFETY: it has passed `check_cpu` and is off, and the core has turned interrupts off.
        if unsafe { self.machine.cpus.switch_on(cpu) } {
            Ok(())
        } else {
            Err(EnableError::Failed)
        }
    }

    fn disable_cpu(&self, cpu: CpuId) {
        self.machine.cpus.switch_off(cpu);
    }
}

/// A segment's fields are two apart; those of the descriptor tables come behind.
fn segment_field(first: u32, name: SegmentName) -> u32 {
    first + 2 * name as u32
}

fn table_field(first: u32, name: TableName) -> u32 {
    first + 2 * name as u32
}

/// Where the control structure has a register of SYSENTER.
fn sysenter_field(msr: Msr) -> Option<u32> {
    match msr {
        Msr::SysenterCs => Some(guest::IA32_SYSENTER_CS),
        Msr::SysenterEsp => Some(guest::IA32_SYSENTER_ESP),
        Msr::SysenterEip => Some(guest::IA32_SYSENTER_EIP),
        _ => None,
    }
}

/// A set of registers: a bit for each.
const fn set(registers: &[Msr]) -> u16 {
    let mut bits = 0;
    let mut rest = registers;
    while let [first, others @ ..] = rest {
        bits |= 1 << *first as u16;
        rest = others;
    }
    bits
}

impl<H: Hal> Registers for VmxVcpu<H> {
    #[inline(always)]
    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }

    #[inline(always)]
    fn switched(&mut self) -> &mut Switched {
        &mut self.switched
    }
}

impl<H: Hal> Vendor for Vmx<H> {
    type Vcpu = Box<VmxVcpu<H>, H>;

    fn new_vcpu(&self) -> Result<Self::Vcpu, Error> {
        VmxVcpu::new(&self.hal, self.machine.clone())
    }

    fn prepare(&self, vcpu: &mut Box<VmxVcpu<H>, H>, cpu: CpuId) {
        // Where VMX operation is off, the entry finds that out too.
        // SAFETY: the core has pinned the thread, and interrupts are on; the result is not used.
        let _ = unsafe { vcpu.bring(cpu) };
    }

    #[inline(always)]
    fn switch_in(&self, vcpu: &mut Box<VmxVcpu<H>, H>, cpu: CpuId, root: Pfn) -> Result<(), Exit> {
        // SAFETY: the core has pinned the thread and turned interrupts off, until `switch_out`.
        unsafe { vcpu.begin(cpu, root) }
    }

    #[inline(always)]
    fn enter(&self, vcpu: &mut Box<VmxVcpu<H>, H>) -> Left {
        vcpu.enter_once()
    }

    #[inline(always)]
    fn switch_out(&self, vcpu: &mut Box<VmxVcpu<H>, H>) {
        vcpu.end();
    }

    fn flush_tlb(&self, vcpu: &mut Box<VmxVcpu<H>, H>) {
        vcpu.flush = true;
    }

    fn length(&self, vcpu: &mut Box<VmxVcpu<H>, H>) -> u8 {
        vcpu.length
    }

    fn fetched<'a>(&self, _: &'a mut Box<VmxVcpu<H>, H>) -> &'a [u8] {
        &[]
    }

    fn segment(&self, vcpu: &mut Box<VmxVcpu<H>, H>, name: SegmentName) -> Segment {
        let mut fields = [
            guest::ES_SELECTOR,
            guest::ES_ACCESS_RIGHTS,
            guest::ES_LIMIT,
            guest::ES_BASE,
        ]
        .map(|first| segment_field(first, name).into());
        self.read_all(vcpu, &mut fields);
        let [selector, rights, limit, base] = fields;
        Segment {
            selector: selector as u16,
            attributes: rights::decode(rights as u32),
            limit: limit as u32,
            base,
        }
    }

    fn set_segment(&self, vcpu: &mut Box<VmxVcpu<H>, H>, name: SegmentName, value: Segment) {
        let rights = rights::encode(name, value.attributes);
        let writes = [
            (guest::ES_SELECTOR, value.selector.into()),
            (guest::ES_ACCESS_RIGHTS, rights.into()),
            (guest::ES_LIMIT, value.limit.into()),
            (guest::ES_BASE, value.base),
        ];
        let writes = writes.map(|(first, value)| (segment_field(first, name), value));
        self.write_all(vcpu, &writes);
    }

    fn table(&self, vcpu: &mut Box<VmxVcpu<H>, H>, name: TableName) -> TableRegister {
        let fields = [guest::GDTR_LIMIT, guest::GDTR_BASE];
        let mut fields = fields.map(|first| table_field(first, name).into());
        self.read_all(vcpu, &mut fields);
        let [limit, base] = fields;
        TableRegister {
            limit: limit as u16,
            base,
        }
    }

    fn set_table(&self, vcpu: &mut Box<VmxVcpu<H>, H>, name: TableName, value: TableRegister) {
        let limit = table_field(guest::GDTR_LIMIT, name);
        let base = table_field(guest::GDTR_BASE, name);
        self.write_all(vcpu, &[(limit, value.limit.into()), (base, value.base)]);
    }

    fn cpl(&self, vcpu: &mut Box<VmxVcpu<H>, H>) -> u8 {
        rights::privilege(self.read(vcpu, guest::SS_ACCESS_RIGHTS) as u32)
    }

    fn control(&self, vcpu: &mut Box<VmxVcpu<H>, H>, name: Control) -> u64 {
        match name {
            Control::Cr0 => self.read(vcpu, guest::CR0) & CR0_GUEST | vcpu.cr0 & !CR0_GUEST,
            Control::Cr3 => self.read(vcpu, guest::CR3),
            Control::Cr4 => vcpu.cr4,
            Control::Efer => vcpu.efer.bits(),
        }
    }

    fn code(&self, vcpu: &mut Box<VmxVcpu<H>, H>) -> Code {
        let mut fields =
            [guest::CR3, guest::CS_ACCESS_RIGHTS, guest::SS_ACCESS_RIGHTS].map(u64::from);
        self.read_all(vcpu, &mut fields);
        let [cr3, cs, ss] = fields;
        Code {
            cr3,
            cr4: Cr4::from_bits_retain(vcpu.cr4),
            efer: vcpu.efer,
            long: rights::decode(cs as u32).contains(Attributes::LONG),
            user: rights::privilege(ss as u32) == 3,
        }
    }

    fn set_control(&self, vcpu: &mut Box<VmxVcpu<H>, H>, name: Control, value: u64) {
        match name {
            Control::Cr0 => {
                let writes = vcpu.set_cr0(value);
                self.write_all(vcpu, &writes);
            }
            Control::Cr3 => self.write_all(vcpu, &[(guest::CR3, value)]),
            Control::Cr4 => {
                let writes = vcpu.set_cr4(value);
                self.write_all(vcpu, &writes);
            }
            Control::Efer => {
                let writes = vcpu.set_efer(Efer::from_bits_retain(value));
                self.write_all(vcpu, &writes);
            }
        }
    }

    fn set_page_directories(&self, vcpu: &mut Box<VmxVcpu<H>, H>, entries: [u64; 4]) {
        // The fields are two apart.
        let [a, b, c, d] = entries;
        let first = guest::PDPTE0_FULL;
        let writes = [(first, a), (first + 2, b), (first + 4, c), (first + 6, d)];
        self.write_all(vcpu, &writes);
    }

    fn msr(&self, vcpu: &mut Box<VmxVcpu<H>, H>, msr: Msr) -> u64 {
        match sysenter_field(msr) {
            Some(field) => self.read(vcpu, field),
            None => vcpu.msrs[msr as usize],
        }
    }

    fn set_msr(&self, vcpu: &mut Box<VmxVcpu<H>, H>, msr: Msr, value: u64) {
        // The core has checked the values. Those that the host itself writes are made such that
        // the CPU takes them all the same: a mistake must not fault in the host.
        const NARROW: u16 = set(&[Msr::SysenterCs, Msr::Sfmask, Msr::TscAux]);
        const ADDRESSES: u16 = set(&[Msr::Lstar, Msr::Cstar, Msr::KernelGsBase]);
        let bit = set(&[msr]);
        let value = if NARROW & bit != 0 {
            value & 0xffff_ffff
        } else if ADDRESSES & bit != 0 {
            canonical(value)
        } else {
            value
        };
        match sysenter_field(msr) {
            Some(field) => self.write_all(vcpu, &[(field, value)]),
            None => vcpu.msrs[msr as usize] = value,
        }
    }

    fn set_tsc_offset(&self, vcpu: &mut Box<VmxVcpu<H>, H>, offset: u64) {
        self.write_all(vcpu, &[(control::TSC_OFFSET_FULL, offset)]);
    }

    fn inject(&self, vcpu: &mut Box<VmxVcpu<H>, H>, event: Event) {
        vcpu.event = Some(event);
    }

    fn take_undelivered(&self, vcpu: &mut Box<VmxVcpu<H>, H>) -> Option<Event> {
        vcpu.event.take()
    }

    fn shadow(&self, vcpu: &mut Box<VmxVcpu<H>, H>) -> Shadow {
        blocking::decode(vcpu.blocking)
    }

    fn set_shadow(&self, vcpu: &mut Box<VmxVcpu<H>, H>, shadow: Shadow) {
        vcpu.blocking = blocking::encode(shadow);
    }

    fn want_windows(&self, vcpu: &mut Box<VmxVcpu<H>, H>, interrupt: bool, nmi: bool) {
        vcpu.primary = vcpu.machine.controls.with_windows(interrupt, nmi);
    }
}

/// The canonical address with these lower 48 bits: guests have four levels of paging.
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}
