//! Commands of a vCPU's descriptor.
use waterbear_hal::Hal;

use super::area::{self, RunArea, Wanted};
use super::bytes::{self, Caller, field};
use super::prefault::KVM_PRE_FAULT_MEMORY;
use super::stats::StatsFile;
use super::vm::VmFile;
use super::{Answer, DONE, Failure, Reply, kvm, no_argument, tsc};
use crate::Error;
use crate::arch::Rflags;
use crate::lock::Mutex;
use crate::lock_order::VCPU;
use crate::mem::{Box, Shared, boxed};
use crate::run::cpuid::HostCpuid;
use crate::run::{GuestCpu, Leave};
use crate::stats::{Count, VcpuStats};
use crate::vendor::Vendor;

/// A vCPU behind a descriptor.
pub struct VcpuFile<H: Hal, V: Vendor, A> {
    /// `[I]` its place among the vCPUs of the VM.
    index: u32,
    /// Shared with the owner.
    area: A,
    /// `[a]` What is counted.
    stats: Shared<VcpuStats, H>,
    /// One thread at a time.
    state: Mutex<H, State<H, V>>,
}

/// What the thread that runs the vCPU keeps.
pub(super) struct State<H: Hal, V: Vendor> {
    /// In a box of its own from the beginning: it is large, and what holds it is moved about on a
    /// kernel's stack.
    pub(super) cpu: Box<GuestCpu<H, V>, H>,
    /// Where the answer of a device will be when the vCPU runs again.
    wanted: Option<Wanted>,
    /// The signals that are blocked while the vCPU runs, if not as always.
    signals: Option<u64>,
    /// How fast the time-stamp counter is, in kHz.
    tsc_khz: u32,
}

/// What a command of a vCPU may use.
pub(super) struct Context<'a, H: Hal, V, C> {
    pub(super) vm: &'a VmFile<H>,
    pub(super) vendor: &'a V,
    pub(super) caller: &'a C,
    pub(super) argument: u64,
}

impl<H: Hal, V: Vendor, A: RunArea> VcpuFile<H, V, A> {
    /// A vCPU as after a reset, which is not among the VM's yet: then
    /// [`add_vcpu`](VmFile::add_vcpu) must follow. May sleep.
    ///
    /// # Errors
    ///
    /// As [`GuestCpu::new`].
    pub fn new(
        vm: &VmFile<H>,
        vendor: &V,
        host: &HostCpuid<'_>,
        index: u32,
        area: A,
    ) -> Result<Self, Error> {
        let mut cpu = boxed(&vm.hal, GuestCpu::new(&vm.hal, vendor, host)?)?;
        cpu.set_tsc_offset(vendor, vm.tsc.offset());
        let stats = cpu.stats().clone();
        let state = State {
            cpu,
            wanted: None,
            signals: None,
            tsc_khz: vm.tsc.khz(),
        };
        Ok(Self {
            index,
            area,
            stats,
            state: Mutex::new(&vm.hal, &VCPU, state)?,
        })
    }

    /// What is shared with the owner.
    pub fn area(&self) -> &A {
        &self.area
    }

    /// What its statistics are read from.
    pub fn stats(&self) -> StatsFile<H> {
        StatsFile::of_vcpu(self.index, self.stats.clone())
    }

    /// Carries out a command of a thread of the owner's. May sleep; no lock
    /// held.
    ///
    /// # Errors
    ///
    /// As the interface says for each.
    pub fn command(
        &self,
        vm: &VmFile<H>,
        vendor: &V,
        caller: &impl Caller,
        command: u32,
        argument: u64,
    ) -> Answer {
        let context = Context {
            vm,
            vendor,
            caller,
            argument,
        };
        // While the vCPU runs, too.
        if command == kvm::KVM_GET_STATS_FD {
            no_argument(argument)?;
            return Ok(Reply::NewStats);
        }
        let mut state = self.state.lock_killable()?;
        // The most frequent by far.
        if command == kvm::KVM_RUN {
            return self.run(&context, &mut state);
        }
        match command {
            kvm::KVM_GET_REGS => state.get_regs(&context),
            kvm::KVM_SET_REGS => state.set_regs(&context),
            kvm::KVM_GET_SREGS => state.get_sregs(&context),
            kvm::KVM_SET_SREGS => state.set_sregs(&context),
            kvm::KVM_GET_SREGS2 => state.get_sregs2(&context),
            kvm::KVM_SET_SREGS2 => state.set_sregs2(&context),
            kvm::KVM_GET_MSRS => state.get_msrs(&context),
            kvm::KVM_SET_MSRS => state.set_msrs(&context),
            kvm::KVM_SET_CPUID2 => state.set_cpuid(&context),
            kvm::KVM_GET_CPUID2 => state.get_cpuid(&context),
            kvm::KVM_GET_VCPU_EVENTS => state.get_events(&context),
            kvm::KVM_SET_VCPU_EVENTS => state.set_events(&context),
            kvm::KVM_GET_DEBUGREGS => state.get_debug(&context),
            kvm::KVM_SET_DEBUGREGS => state.set_debug(&context),
            kvm::KVM_GET_FPU => state.get_fpu(&context),
            kvm::KVM_SET_FPU => state.set_fpu(&context),
            kvm::KVM_GET_XSAVE | kvm::KVM_GET_XSAVE2 => state.get_xsave(&context),
            kvm::KVM_SET_XSAVE => state.set_xsave(&context),
            kvm::KVM_GET_XCRS => state.get_xcrs(&context),
            kvm::KVM_SET_XCRS => state.set_xcrs(&context),
            kvm::KVM_INTERRUPT => {
                const SIZE: usize = size_of::<kvm::kvm_interrupt>();
                let sent: [u8; SIZE] = bytes::structure(caller, argument)?;
                let vector = field!(sent, kvm_interrupt.irq: u32);
                let vector = u8::try_from(vector).map_err(|_| Error::Invalid)?;
                state.cpu.queue_interrupt(vector)?;
                DONE
            }
            kvm::KVM_SET_SIGNAL_MASK => state.set_signal_mask(&context),
            kvm::KVM_KVMCLOCK_CTRL => {
                if state.cpu.tell_stopped() {
                    DONE
                } else {
                    Err(Error::Invalid.into())
                }
            }
            KVM_PRE_FAULT_MEMORY => state.prefault(&context),
            kvm::KVM_GET_TSC_KHZ => Ok(Reply::Value(state.tsc_khz)),
            kvm::KVM_SET_TSC_KHZ => {
                state.tsc_khz = tsc::frequency(&vm.hal, argument)?;
                DONE
            }
            // There is none that a vCPU has.
            kvm::KVM_ENABLE_CAP => {
                let _sent: [u8; size_of::<kvm::kvm_enable_cap>()] =
                    bytes::structure(caller, argument)?;
                Err(Error::Invalid.into())
            }
            kvm::KVM_X86_SETUP_MCE => {
                let cap = u64::from_le_bytes(bytes::structure(caller, argument)?);
                state.cpu.set_up_machine_checks(cap)?;
                DONE
            }
            kvm::KVM_X86_SET_MCE => state.report_machine_check(&context),
            kvm::KVM_NMI => {
                state.cpu.queue_nmi();
                DONE
            }
            // Without an interrupt controller in the kernel a vCPU is always
            // ready to run: waiting is its owner's business.
            kvm::KVM_GET_MP_STATE => {
                caller.copy_out(argument, &kvm::KVM_MP_STATE_RUNNABLE.to_le_bytes())?;
                DONE
            }
            kvm::KVM_SET_MP_STATE => {
                let sent: [u8; 4] = bytes::structure(caller, argument)?;
                if u32::from_le_bytes(sent) == kvm::KVM_MP_STATE_RUNNABLE {
                    DONE
                } else {
                    Err(Error::Invalid.into())
                }
            }
            _ => Err(Failure::Unknown),
        }
    }

    fn run<C: Caller>(&self, context: &Context<'_, H, V, C>, state: &mut State<H, V>) -> Answer {
        no_argument(context.argument)?;
        let (vm, vendor) = (context.vm.vm(), context.vendor);
        let wish = area::wish(&self.area);
        let cpu = &mut state.cpu;
        cpu.set_cr8(wish.cr8)?;
        cpu.want_interrupt_window(wish.window);
        cpu.come_back_at_once(wish.at_once);
        if let Some(wanted) = state.wanted.take() {
            area::take_answer(&self.area, wanted, cpu);
        }
        let result = match cpu.begin(vm, vendor) {
            Ok(None) => {
                let vcpu = vm.vcpus().get(self.index).ok_or(Error::NotFound)?;
                let before = state.signals.map(|mask| context.caller.mask_signals(mask));
                let result = cpu.go_on(vm, vcpu, vendor);
                if let Some(before) = before {
                    context.caller.unmask_signals(before);
                }
                result
            }
            Ok(Some(leave)) => Ok(leave),
            Err(error) => Err(error),
        };
        let mut reason = None;
        if let Ok(leave) = &result {
            let told = area::tell_leave(&self.area, leave, cpu);
            (reason, state.wanted) = (Some(told.reason), told.wanted);
        }
        let rflags = Rflags::from_bits_retain(vendor.regs(cpu.state()).rflags);
        let told = area::State {
            ready: cpu.ready_for_interrupt(vendor),
            interrupts_on: rflags.contains(Rflags::IF),
            cr8: cpu.cr8(),
            apic_base: cpu.apic_base(),
        };
        area::tell_state(&self.area, reason, &told);
        match result? {
            Leave::Interrupted => {
                self.stats.add(Count::Signal);
                Err(Error::Interrupted.into())
            }
            _ => DONE,
        }
    }
}

impl<H: Hal, V: Vendor> State<H, V> {
    /// Takes the signals that are to be blocked while the vCPU runs; with no argument, those that
    /// are blocked anyway.
    fn set_signal_mask<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        /// The size of a mask, and where it is behind its size.
        const SIZE: u32 = 8;
        const MASK: u64 = 4;
        let (caller, argument) = (context.caller, context.argument);
        self.signals = if argument == 0 {
            None
        } else {
            if u32::from_le_bytes(bytes::structure(caller, argument)?) != SIZE {
                return Err(Error::Invalid.into());
            }
            let mask = bytes::structure(caller, argument.wrapping_add(MASK))?;
            Some(u64::from_le_bytes(mask))
        };
        DONE
    }
}
