//! Commands of a vCPU's descriptor.
use waterbear_hal::Hal;

use super::area::{self, RunArea, Wanted};
use super::bytes::{self, Caller, Structure, field, word};
use super::prefault::KVM_PRE_FAULT_MEMORY;
use super::stats::StatsFile;
use super::vm::VmFile;
use super::{Answer, DONE, Failure, Reply, kvm, no_argument, tsc};
use crate::Error;
use crate::arch::Rflags;
use crate::lock::Mutex;
use crate::lock_order::VCPU;
use crate::mem::{Box, Shared};
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
        let mut cpu = GuestCpu::new(&vm.hal, vendor, host)?;
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
            self.run(&context, &mut state)
        } else {
            state.command(&context, command)
        }
    }

    fn run<C: Caller>(&self, context: &Context<'_, H, V, C>, state: &mut State<H, V>) -> Answer {
        no_argument(context.argument)?;
        let (vm, vendor) = (context.vm.vm(), context.vendor);
        let words = self.area.words();
        let wish = area::wish(words);
        let cpu = &mut *state.cpu;
        cpu.set_cr8(wish.cr8)?;
        cpu.want_interrupt_window(wish.window);
        cpu.come_back_at_once(wish.at_once);
        if let Some(wanted) = state.wanted.take() {
            area::take_answer(words, wanted, cpu);
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
            let told = area::tell_leave(words, leave, cpu);
            (reason, state.wanted) = (Some(told.reason), told.wanted);
        }
        let rflags = Rflags::from_bits_retain(vendor.regs(cpu.state()).rflags);
        let told = area::State {
            ready: cpu.ready_for_interrupt(vendor),
            interrupts_on: rflags.contains(Rflags::IF),
            cr8: cpu.cr8(),
            apic_base: cpu.apic_base(),
        };
        area::tell_state(words, reason, &told);
        match result? {
            Leave::Interrupted => {
                self.stats.add(Count::Signal);
                Err(Error::Interrupted.into())
            }
            _ => DONE,
        }
    }
}

/// The commands whose argument points to a structure.
const WITH_STRUCTURE: [u32; 20] = [
    kvm::KVM_GET_REGS,
    kvm::KVM_SET_REGS,
    kvm::KVM_GET_SREGS,
    kvm::KVM_SET_SREGS,
    kvm::KVM_GET_SREGS2,
    kvm::KVM_SET_SREGS2,
    kvm::KVM_GET_VCPU_EVENTS,
    kvm::KVM_SET_VCPU_EVENTS,
    kvm::KVM_GET_DEBUGREGS,
    kvm::KVM_SET_DEBUGREGS,
    kvm::KVM_GET_FPU,
    kvm::KVM_SET_FPU,
    kvm::KVM_GET_XCRS,
    kvm::KVM_SET_XCRS,
    kvm::KVM_INTERRUPT,
    kvm::KVM_ENABLE_CAP,
    kvm::KVM_X86_SETUP_MCE,
    kvm::KVM_X86_SET_MCE,
    kvm::KVM_GET_MP_STATE,
    kvm::KVM_SET_MP_STATE,
];

impl<H: Hal, V: Vendor> State<H, V> {
    /// Carries out a command, but not KVM_RUN.
    #[inline(never)]
    fn command<C: Caller>(&mut self, context: &Context<'_, H, V, C>, command: u32) -> Answer {
        match command {
            kvm::KVM_GET_MSRS => self.get_msrs(context),
            kvm::KVM_SET_MSRS => self.set_msrs(context),
            kvm::KVM_SET_CPUID2 => self.set_cpuid(context),
            kvm::KVM_GET_CPUID2 => self.get_cpuid(context),
            kvm::KVM_GET_XSAVE | kvm::KVM_GET_XSAVE2 => self.get_xsave(context),
            kvm::KVM_SET_XSAVE => self.set_xsave(context),
            kvm::KVM_SET_SIGNAL_MASK => self.set_signal_mask(context),
            kvm::KVM_KVMCLOCK_CTRL => {
                if self.cpu.tell_stopped() {
                    DONE
                } else {
                    Err(Error::Invalid.into())
                }
            }
            KVM_PRE_FAULT_MEMORY => self.prefault(context),
            kvm::KVM_GET_TSC_KHZ => Ok(Reply::Value(self.tsc_khz)),
            kvm::KVM_SET_TSC_KHZ => {
                self.tsc_khz = tsc::frequency(&context.vm.hal, context.argument)?;
                DONE
            }
            kvm::KVM_NMI => {
                self.cpu.queue_nmi();
                DONE
            }
            _ if WITH_STRUCTURE.contains(&command) => {
                let mut structure = [0; _];
                bytes::take(context.caller, command, context.argument, &mut structure)?;
                self.exchange(context.vm, context.vendor, command, &mut structure)?;
                bytes::give(context.caller, command, context.argument, &structure)?;
                DONE
            }
            _ => Err(Failure::Unknown),
        }
    }

    /// Carries out a command with a structure.
    fn exchange(
        &mut self,
        vm: &VmFile<H>,
        vendor: &V,
        command: u32,
        structure: &mut Structure,
    ) -> Result<(), Error> {
        match command {
            kvm::KVM_GET_REGS => self.get_regs(vendor, structure),
            kvm::KVM_SET_REGS => self.set_regs(vendor, structure),
            kvm::KVM_GET_SREGS => self.get_sregs(vendor, structure),
            kvm::KVM_SET_SREGS => return self.set_sregs(vm.vm(), vendor, structure),
            kvm::KVM_GET_SREGS2 => self.get_sregs2(vm.vm(), vendor, structure),
            kvm::KVM_SET_SREGS2 => return self.set_sregs2(vm.vm(), vendor, structure),
            kvm::KVM_GET_VCPU_EVENTS => self.get_events(vendor, structure),
            kvm::KVM_SET_VCPU_EVENTS => return self.set_events(vendor, structure),
            kvm::KVM_GET_DEBUGREGS => self.get_debug(vendor, structure),
            kvm::KVM_SET_DEBUGREGS => return self.set_debug(vendor, structure),
            kvm::KVM_GET_FPU => return self.get_fpu(&vm.hal, structure),
            kvm::KVM_SET_FPU => return self.set_fpu(&vm.hal, structure),
            kvm::KVM_GET_XCRS => self.get_xcrs(vendor, structure),
            kvm::KVM_SET_XCRS => return self.set_xcrs(vendor, structure),
            kvm::KVM_INTERRUPT => {
                let vector = field!(structure, kvm_interrupt.irq: u32);
                let vector = u8::try_from(vector).map_err(|_| Error::Invalid)?;
                return self.cpu.queue_interrupt(vector);
            }
            kvm::KVM_X86_SETUP_MCE => {
                return self.cpu.set_up_machine_checks(bytes::u64(structure, 0));
            }
            kvm::KVM_X86_SET_MCE => return self.report_machine_check(vendor, structure),
            // Without an interrupt controller in the kernel a vCPU is always
            // ready to run: waiting is its owner's business.
            kvm::KVM_GET_MP_STATE => {
                bytes::put(structure, 0, kvm::KVM_MP_STATE_RUNNABLE.to_le_bytes());
            }
            kvm::KVM_SET_MP_STATE if bytes::u32(structure, 0) == kvm::KVM_MP_STATE_RUNNABLE => {}
            // There is no capability that a vCPU has.
            _ => return Err(Error::Invalid),
        }
        Ok(())
    }

    /// Takes the signals that are to be blocked while the vCPU runs; with no argument, those that
    /// are blocked anyway.
    fn set_signal_mask<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        /// The size of a mask, and where it is behind its size.
        const SIZE: u32 = 8;
        const MASK: u64 = 4;
        let (caller, argument) = (context.caller, context.argument);
        let mut signals = None;
        if argument != 0 {
            if word(caller, argument)? != SIZE {
                return Err(Error::Invalid.into());
            }
            let mut mask = [0; SIZE as usize];
            caller.copy_in(argument.wrapping_add(MASK), &mut mask)?;
            signals = Some(u64::from_le_bytes(mask));
        }
        self.signals = signals;
        DONE
    }
}
