//! One run of the guest, from the entry to the exit.
#![expect(unsafe_code, reason = "entering the guest")]
use waterbear_core::arch::{Cr0, Event, Exception, Rflags};
use waterbear_core::exit::Exit;
use waterbear_core::regs::Regs;
use waterbear_core::vendor::Left;
use waterbear_hal::{CpuId, Hal, Pfn};
use x86::vmx::vmcs::{control, guest, ro};

use crate::blocking::{BY_NMI, SHADOW};
use crate::cpu;
use crate::event::{self, DR6_NEW};
use crate::exit::{self, ENTRY_FAILED, ToDo};
use crate::fields::Current;
use crate::loaded::Brought;
use crate::swap;
use crate::vcpu::VmxVcpu;
use crate::world;

/// What [`Exit::Refused`] says when VMX operation is off.
const OFF: u64 = u64::MAX;
/// DR7: the next access to a debug register is an exception.
const DR7_GD: u64 = 1 << 13;
/// Pending debug exceptions: single step.
const SINGLE_STEP: u64 = 1 << 14;

impl<H: Hal> VmxVcpu<H> {
    /// Makes the control structure current on this CPU. `None` when VMX operation is off.
    ///
    /// # Safety
    ///
    /// The caller is pinned to this CPU until the result is used no more; interrupts are on.
    #[inline]
    pub(crate) unsafe fn bring(&mut self, cpu: CpuId) -> Option<Current> {
        // SAFETY: as the caller promises.
        if let Some(current) = unsafe { self.machine.cpus.current(cpu, self.address()) } {
            return Some(current);
        }
        // SAFETY: as the caller promises.
        unsafe { self.load(cpu) }
    }

    /// # Safety
    ///
    /// As for [`bring`](VmxVcpu::bring).
    #[cold]
    unsafe fn load(&mut self, cpu: CpuId) -> Option<Current> {
        let cpus = &self.machine.cpus;
        // SAFETY: as the caller promises, who has the vCPU to itself.
        let (current, brought) = unsafe { cpus.bring(cpu, self.cpu, self.address())? };
        if brought == Brought::Freshly {
            self.cpu = cpu;
            self.launched = false;
            self.host.load(&current);
            self.fixed.read(self.machine.which, self.host.cr4);
            if !core::mem::replace(&mut self.initialised, true) {
                self.initialise(&current);
            }
        }
        Some(current)
    }

    /// Begins a run on this CPU, as
    /// [`Vendor::switch_in`](waterbear_core::vendor::Vendor::switch_in).
    ///
    /// # Safety
    ///
    /// The caller is pinned to this CPU and interrupts are off, until [`end`](VmxVcpu::end).
    #[inline(always)]
    pub(crate) unsafe fn begin(&mut self, cpu: CpuId, root: Pfn) -> Result<(), Exit> {
        // SAFETY: as the caller promises, who has the vCPU to itself.
        let Some(current) = (unsafe { self.machine.cpus.current(cpu, self.address()) }) else {
            return Err(Exit::Refused(OFF));
        };
        self.before(&current, cpu, root);
        // SAFETY: `load` has read them on this CPU; the core has checked the guest's.
        self.swapped = Some(unsafe {
            swap::into(
                &self.fixed,
                self.machine.which,
                self.host.cr4,
                self.efer,
                &self.msrs,
                &self.switched,
            )
        });
        Ok(())
    }

    /// Runs the guest until its next exit.
    #[inline(always)]
    pub(crate) fn enter_once(&mut self) -> Left {
        let refused = |code| Left {
            exit: Exit::Refused(code),
            whole: false,
        };
        if self.swapped.is_none() {
            return refused(OFF);
        }
        // SAFETY: a run has begun: the structure is current, and the thread stays here.
        let current = unsafe { Current::new() };
        self.write_registers(&current);
        // SAFETY: VMX operation is on, the structure is current, `launched` says in which state,
        // the host is described, and interrupts are off.
        let entered = unsafe { world::run(&mut self.regs, self.launched, &mut self.host.rsp) };
        if !entered {
            self.length = 0;
            return refused(current.read(ro::VM_INSTRUCTION_ERROR));
        }
        let exit = self.after(&current);
        let whole = self.raise.is_empty() && self.event.is_none();
        Left { exit, whole }
    }

    /// Ends a run.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        // In place: it is large.
        let Some(swapped) = &self.swapped else {
            return;
        };
        self.host.restore();
        self.machine.cpus.cut_task_register();
        // SAFETY: on the CPU of `begin`, with interrupts off since.
        unsafe {
            swap::out(
                swapped,
                &self.fixed,
                self.machine.which,
                &mut self.msrs,
                &mut self.switched,
            );
        }
        self.swapped = None;
        if !self.raise.is_empty() {
            self.raise();
        }
    }

    /// Writes what the first entry needs and the structure does not have yet, but for registers.
    #[inline(always)]
    fn before(&mut self, current: &Current, cpu: CpuId, root: Pfn) {
        self.host.refresh(current);
        let written = &mut self.written;
        let update = |field, old: &mut u64, new| {
            if *old != new {
                *old = new;
                current.write(field, new);
            }
        };
        let pointer = self.machine.ept_pointer(root);
        update(control::EPTP_FULL, &mut written.pointer, pointer);
        if written.primary != self.primary {
            written.primary = self.primary;
            current.write(
                control::PRIMARY_PROCBASED_EXEC_CONTROLS,
                self.primary.into(),
            );
        }
        if self.event.is_some() || written.event {
            self.write_event(current);
        }
        update(guest::DR7, &mut self.written.dr7, self.switched.dr7);
        if self.flush || self.ran_on != Some(cpu) {
            self.flush = false;
            self.ran_on = Some(cpu);
            // SAFETY: a control structure is current, hence VMX operation on; `detect` wants this
            // form.
            unsafe { cpu::invept(self.written.pointer) }
        }
    }

    /// Writes the registers that entries load and of which the structure has another value.
    #[inline(always)]
    fn write_registers(&mut self, current: &Current) {
        let written = &mut self.written;
        let update = |field, old: &mut u64, new| {
            if *old != new {
                *old = new;
                current.write(field, new);
            }
        };
        update(guest::RIP, &mut written.rip, self.regs.rip);
        update(guest::RSP, &mut written.rsp, self.regs.general[Regs::RSP]);
        let rflags = self.regs.rflags;
        update(guest::RFLAGS, &mut written.rflags, rflags);
        update(
            guest::INTERRUPTIBILITY_STATE,
            &mut written.blocking,
            self.blocking,
        );
        if self.blocking & SHADOW != 0 {
            self.settle_single_step(current);
        }
    }

    /// Writes the event that the entry delivers, or that there is none, and what its delivery
    /// does to registers that entries do not touch.
    #[cold]
    fn write_event(&mut self, current: &Current) {
        let Some(event) = self.event else {
            current.write(control::VMENTRY_INTERRUPTION_INFO_FIELD, 0);
            self.written.event = false;
            return;
        };
        match event {
            Event::Exception(exception) if exception.vector == Exception::PF => {
                self.switched.cr2 = exception.payload;
            }
            Event::Exception(exception) if exception.vector == Exception::DB => {
                const HIT: u64 = 0xf;
                self.switched.dr6 = self.switched.dr6 & !HIT | exception.payload & DR6_NEW;
                self.switched.dr7 &= !DR7_GD;
            }
            _ => {}
        }
        let protected = current.read(guest::CR0) & Cr0::PE.bits() != 0;
        let injection = event::encode(event, protected);
        let write = |field, value: u32| current.write(field, value.into());
        write(control::VMENTRY_INTERRUPTION_INFO_FIELD, injection.info);
        write(control::VMENTRY_EXCEPTION_ERR_CODE, injection.error);
        write(control::VMENTRY_INSTRUCTION_LEN, injection.length);
        self.written.event = true;
    }

    /// An entry with interrupts held off by STI or MOV SS wants to be told whether a single step
    /// is pending: it is, if the guest single-steps. Source: Intel SDM volume 3, "Checks on Guest
    /// Non-Register State".
    #[cold]
    fn settle_single_step(&mut self, current: &Current) {
        let pending = current.read(guest::PENDING_DBG_EXCEPTIONS);
        let wanted = if self.regs.rflags & Rflags::TF.bits() != 0 {
            pending | SINGLE_STEP
        } else {
            pending & !SINGLE_STEP
        };
        if wanted != pending {
            current.write(guest::PENDING_DBG_EXCEPTIONS, wanted);
        }
    }

    /// Reads what the guest left and why.
    #[inline(always)]
    fn after(&mut self, current: &Current) -> Exit {
        let reason = current.read(ro::EXIT_REASON);
        let vectoring = current.read(ro::IDT_VECTORING_INFO) as u32;
        if reason & ENTRY_FAILED == 0 {
            self.launched = true;
            self.event = None;
            self.written.event = false;
            self.written.rip = current.read(guest::RIP);
            self.written.rsp = current.read(guest::RSP);
            self.written.rflags = current.read(guest::RFLAGS);
            self.regs.rip = self.written.rip;
            self.regs.general[Regs::RSP] = self.written.rsp;
            self.regs.rflags = self.written.rflags;
            self.written.blocking = current.read(guest::INTERRUPTIBILITY_STATE);
            self.blocking = self.written.blocking;
        }
        let left = exit::decode(current, reason, vectoring);
        self.length = left.length;
        if event::is_valid(vectoring) && reason & ENTRY_FAILED == 0 {
            self.note_undelivered(current, vectoring);
        }
        if !left.to_do.is_empty() {
            self.finish(left.to_do);
        }
        left.exit
    }

    /// Does what is to be done before the core hears of an exit.
    #[cold]
    fn finish(&mut self, to_do: ToDo) {
        if to_do.contains(ToDo::BLOCK_NMIS) {
            self.blocking |= BY_NMI;
        }
        if to_do.contains(ToDo::SKIP) {
            self.regs.rip = self.regs.rip.wrapping_add(self.length.into());
            self.length = 0;
        }
        self.raise = to_do & (ToDo::HOST_NMI | ToDo::HOST_MACHINE_CHECK);
    }

    /// Hands what the exit took from the host back to it.
    #[cold]
    fn raise(&mut self) {
        let raise = core::mem::take(&mut self.raise);
        if raise.contains(ToDo::HOST_NMI) {
            // SAFETY: the exit took it, and the host's state is back.
            unsafe { cpu::raise_nmi() }
        }
        if raise.contains(ToDo::HOST_MACHINE_CHECK) {
            // SAFETY: as above.
            unsafe { cpu::raise_machine_check() }
        }
    }

    /// Notes the event whose delivery the exit cut short.
    #[cold]
    fn note_undelivered(&mut self, current: &Current, vectoring: u32) {
        let error = current.read(ro::IDT_VECTORING_ERR_CODE) as u32;
        let length = current.read(ro::VMEXIT_INSTRUCTION_LEN) as u8;
        let switched = &self.switched;
        self.event = event::decode(vectoring, error, length, |vector| match vector {
            // The guest's is in the CPU still.
            Exception::PF => cpu::read_cr2(),
            Exception::DB => switched.dr6 & DR6_NEW,
            _ => 0,
        });
        if event::is_nmi(vectoring) {
            // It is not being handled after all.
            self.blocking &= !BY_NMI;
        }
    }
}
