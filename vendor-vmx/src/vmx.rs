//! VMX as the core's vendor.
#![expect(unsafe_code, reason = "what the core promises is passed on")]
use waterbear_core::Error;
use waterbear_core::arch::{Efer, Event, Segment, SegmentName, Shadow, TableName, TableRegister};
use waterbear_core::exit::Exit;
use waterbear_core::mem::Shared;
use waterbear_core::regs::{Regs, Switched};
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::{
    Control, EnableError, Hardware, Left, Msr, Registers, Unsupported, Vendor,
};
use waterbear_hal::{CpuId, Hal, Pfn, Pinned, Word};
use x86::vmx::vmcs::{control, guest};

use crate::blocking;
use crate::cpu;
use crate::detect::Features;
use crate::fields::Current;
use crate::machine::Machine;
use crate::rights;
use crate::vcpu::VmxVcpu;

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
        let features = match cpu::facts().features() {
            Ok(features) => features,
            Err(reason) => {
                hal.info(&[Word::Text("VMX: this CPU "), Word::Text(reason.text())]);
                return Err(Error::NotSupported);
            }
        };
        let lacks = || {
            hal.info(&[Word::Text("VMX: this CPU lacks controls that are needed")]);
            Error::NotSupported
        };
        let format = features.entry_format().map_err(|_| lacks())?;
        let machine = Machine::new(hal, cpus, features).map_err(|error| match error {
            Error::NotSupported => lacks(),
            other => other,
        })?;
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

    /// Runs `f` with the vCPU's control structure current on this CPU. `None` when VMX operation
    /// is off, as it is when the machine goes down.
    fn with<R>(
        &self,
        vcpu: &mut VmxVcpu<H>,
        f: impl FnOnce(&mut VmxVcpu<H>, &Current) -> R,
    ) -> Option<R> {
        let pinned = Pinned::new(&self.hal);
        // SAFETY: pinned until `f` is over; the hooks are called with interrupts on.
        let current = unsafe { vcpu.bring(pinned.cpu())? };
        Some(f(vcpu, &current))
    }

    /// Reads a field.
    fn read(&self, vcpu: &mut VmxVcpu<H>, field: u32) -> u64 {
        self.with(vcpu, |_, current| current.read(field))
            .unwrap_or(0)
    }

    /// Writes a field.
    fn write(&self, vcpu: &mut VmxVcpu<H>, field: u32, value: u64) {
        self.with(vcpu, |_, current| current.write(field, value));
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
        let here = cpu::facts().features()?;
        // Whether it is locked is not a feature: the first CPU's may be locked
        // by us already.
        let here = Features {
            unlocked: self.machine.features.unlocked,
            ..here
        };
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
        let unlocked = cpu::facts().features().is_ok_and(|found| found.unlocked);
        // SAFETY: it has passed `check_cpu` and is off, and the core has turned interrupts off.
        if unsafe { self.machine.cpus.switch_on(cpu, unlocked) } {
            Ok(())
        } else {
            Err(EnableError::Failed)
        }
    }

    fn disable_cpu(&self, cpu: CpuId) {
        self.machine.cpus.switch_off(cpu);
    }
}

/// The number of a segment's fields, which are two apart.
fn segment_field(first: u32, name: SegmentName) -> u32 {
    first + 2 * name as u32
}

fn table_field(first: u32, name: TableName) -> u32 {
    match name {
        TableName::Gdtr => first,
        TableName::Idtr => first + 2,
    }
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
    type Vcpu = VmxVcpu<H>;

    fn new_vcpu(&self) -> Result<VmxVcpu<H>, Error> {
        VmxVcpu::new(&self.hal, self.machine.clone())
    }

    fn prepare(&self, vcpu: &mut VmxVcpu<H>, cpu: CpuId) {
        // Where VMX operation is off, the entry finds that out too.
        // SAFETY: the core has pinned the thread, and interrupts are on; the result is not used.
        let _ = unsafe { vcpu.bring(cpu) };
    }

    #[inline(always)]
    fn switch_in(&self, vcpu: &mut VmxVcpu<H>, cpu: CpuId, root: Pfn) -> Result<(), Exit> {
        // SAFETY: the core has pinned the thread and turned interrupts off, until `switch_out`.
        unsafe { vcpu.begin(cpu, root) }
    }

    #[inline(always)]
    fn enter(&self, vcpu: &mut VmxVcpu<H>) -> Left {
        vcpu.enter_once()
    }

    #[inline(always)]
    fn switch_out(&self, vcpu: &mut VmxVcpu<H>) {
        vcpu.end();
    }

    fn flush_tlb(&self, vcpu: &mut VmxVcpu<H>) {
        vcpu.flush = true;
    }

    fn length(&self, vcpu: &mut VmxVcpu<H>) -> u8 {
        vcpu.length
    }

    fn fetched<'a>(&self, _vcpu: &'a mut VmxVcpu<H>) -> &'a [u8] {
        &[]
    }

    fn segment(&self, vcpu: &mut VmxVcpu<H>, name: SegmentName) -> Segment {
        let read = |_: &mut VmxVcpu<H>, current: &Current| {
            let field = |first| current.read(segment_field(first, name));
            Segment {
                selector: field(guest::ES_SELECTOR) as u16,
                attributes: rights::decode(field(guest::ES_ACCESS_RIGHTS) as u32),
                limit: field(guest::ES_LIMIT) as u32,
                base: field(guest::ES_BASE),
            }
        };
        self.with(vcpu, read).unwrap_or_default()
    }

    fn set_segment(&self, vcpu: &mut VmxVcpu<H>, name: SegmentName, value: Segment) {
        let rights = rights::encode(name, value.attributes);
        self.with(vcpu, |_, current| {
            let write = |first, value| current.write(segment_field(first, name), value);
            write(guest::ES_SELECTOR, value.selector.into());
            write(guest::ES_ACCESS_RIGHTS, rights.into());
            write(guest::ES_LIMIT, value.limit.into());
            write(guest::ES_BASE, value.base);
        });
    }

    fn table(&self, vcpu: &mut VmxVcpu<H>, name: TableName) -> TableRegister {
        let read = |_: &mut VmxVcpu<H>, current: &Current| TableRegister {
            limit: current.read(table_field(guest::GDTR_LIMIT, name)) as u16,
            base: current.read(table_field(guest::GDTR_BASE, name)),
        };
        self.with(vcpu, read).unwrap_or_default()
    }

    fn set_table(&self, vcpu: &mut VmxVcpu<H>, name: TableName, value: TableRegister) {
        self.with(vcpu, |_, current| {
            current.write(table_field(guest::GDTR_LIMIT, name), value.limit.into());
            current.write(table_field(guest::GDTR_BASE, name), value.base);
        });
    }

    fn cpl(&self, vcpu: &mut VmxVcpu<H>) -> u8 {
        rights::privilege(self.read(vcpu, guest::SS_ACCESS_RIGHTS) as u32)
    }

    fn control(&self, vcpu: &mut VmxVcpu<H>, name: Control) -> u64 {
        match name {
            Control::Cr0 => self
                .with(vcpu, |vcpu, current| vcpu.read_cr0(current))
                .unwrap_or(0),
            Control::Cr3 => self.read(vcpu, guest::CR3),
            Control::Cr4 => vcpu.cr4,
            Control::Efer => vcpu.efer.bits(),
        }
    }

    fn set_control(&self, vcpu: &mut VmxVcpu<H>, name: Control, value: u64) {
        self.with(vcpu, |vcpu, current| match name {
            Control::Cr0 => vcpu.write_cr0(current, value),
            Control::Cr3 => current.write(guest::CR3, value),
            Control::Cr4 => vcpu.write_cr4(current, value),
            Control::Efer => vcpu.write_efer(current, Efer::from_bits_retain(value)),
        });
    }

    fn set_page_directories(&self, vcpu: &mut VmxVcpu<H>, entries: [u64; 4]) {
        self.with(vcpu, |_, current| {
            // The fields are two apart.
            for (number, entry) in (0..).zip(entries) {
                current.write(guest::PDPTE0_FULL + 2 * number, entry);
            }
        });
    }

    fn msr(&self, vcpu: &mut VmxVcpu<H>, msr: Msr) -> u64 {
        let [star, lstar, cstar, sfmask] = vcpu.msrs.syscall;
        match msr {
            Msr::SysenterCs => self.read(vcpu, guest::IA32_SYSENTER_CS),
            Msr::SysenterEsp => self.read(vcpu, guest::IA32_SYSENTER_ESP),
            Msr::SysenterEip => self.read(vcpu, guest::IA32_SYSENTER_EIP),
            Msr::Pat => vcpu.pat,
            Msr::Star => star,
            Msr::Lstar => lstar,
            Msr::Cstar => cstar,
            Msr::Sfmask => sfmask,
            Msr::KernelGsBase => vcpu.msrs.kernel_gs,
            Msr::TscAux => vcpu.msrs.tsc_aux,
        }
    }

    fn set_msr(&self, vcpu: &mut VmxVcpu<H>, msr: Msr, value: u64) {
        // The core has checked the values. Those that the host itself writes are made such that
        // the CPU takes them all the same: a mistake must not fault in the host.
        let [star, lstar, cstar, sfmask] = &mut vcpu.msrs.syscall;
        match msr {
            Msr::SysenterCs => self.write(vcpu, guest::IA32_SYSENTER_CS, value & 0xffff_ffff),
            Msr::SysenterEsp => self.write(vcpu, guest::IA32_SYSENTER_ESP, value),
            Msr::SysenterEip => self.write(vcpu, guest::IA32_SYSENTER_EIP, value),
            Msr::Pat => vcpu.pat = value,
            Msr::Star => *star = value,
            Msr::Lstar => *lstar = canonical(value),
            Msr::Cstar => *cstar = canonical(value),
            Msr::Sfmask => *sfmask = value & 0xffff_ffff,
            Msr::KernelGsBase => vcpu.msrs.kernel_gs = canonical(value),
            Msr::TscAux => vcpu.msrs.tsc_aux = value & 0xffff_ffff,
        }
    }

    fn set_tsc_offset(&self, vcpu: &mut VmxVcpu<H>, offset: u64) {
        self.write(vcpu, control::TSC_OFFSET_FULL, offset);
    }

    fn inject(&self, vcpu: &mut VmxVcpu<H>, event: Event) {
        vcpu.event = Some(event);
    }

    fn take_undelivered(&self, vcpu: &mut VmxVcpu<H>) -> Option<Event> {
        vcpu.undelivered.take().or_else(|| vcpu.event.take())
    }

    fn shadow(&self, vcpu: &mut VmxVcpu<H>) -> Shadow {
        blocking::decode(vcpu.blocking)
    }

    fn set_shadow(&self, vcpu: &mut VmxVcpu<H>, shadow: Shadow) {
        vcpu.blocking = blocking::encode(shadow);
    }

    fn want_windows(&self, vcpu: &mut VmxVcpu<H>, interrupt: bool, nmi: bool) {
        vcpu.primary = vcpu.machine.controls.with_windows(interrupt, nmi);
    }
}

/// The canonical address with these lower 48 bits: guests have four levels of paging.
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}
