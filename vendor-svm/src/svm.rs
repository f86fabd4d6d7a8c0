//! SVM as the core's vendor: which CPUs it is on, and the way in and out.
#![expect(unsafe_code, reason = "privileged registers and the world switch")]
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_core::exit::Exit;
use waterbear_core::mem::{Box, array};
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::{EnableError, Hardware, Left, Unsupported};
use waterbear_hal::{CpuId, Hal, Level, Pfn};

use crate::asid::Asids;
use crate::by_hand::ByHand;
use crate::cpu::{EFER, PRED_CMD, VM_HSAVE_PA, facts, machine_check, read_msr, write_msr};
use crate::detect::{Features, Has};
use crate::exit::{code, reason};
use crate::pages::{PAGE, Pages};
use crate::permission;
use crate::vcpu::{Maps, Run, SvmVcpu};
use crate::vmcb::EFER_SVME;
use crate::world;

/// EFER.AIBRSE: the CPU protects the host's predictions by itself.
const EFER_AIBRSE: u64 = 1 << 21;

/// How many pages the permission map of ports has: the third is for accesses that begin at the last
/// ports.
const PORTS: usize = 3;

/// What a CPU needs while SVM is on.
struct PerCpu<H: Hal> {
    /// Where VMRUN keeps the host's state, and in the second page VMSAVE the rest of it. Always
    /// there when the CPU is used.
    host: Option<Pages<H>>,
    asids: Asids,
    /// The vCPU that ran last, by number.
    last: AtomicU64,
    /// The host's return predictions are to be overwritten after a run.
    stuff: AtomicBool,
}

/// AMD's hardware virtualisation on this machine.
pub struct Svm<H: Hal> {
    hal: H,
    features: Features,
    format: EntryFormat,
    cpus: Box<[PerCpu<H>], H>,
    /// The permission maps: that of ports, where every access of the guest's exits, and behind it
    /// that of MSRs; see [`permission`].
    maps: Pages<H>,
    /// The number that the next vCPU gets.
    next: AtomicU64,
}

impl<H: Hal> Svm<H> {
    /// Looks at this CPU and allocates what the CPUs up to `cpus` need. Changes
    /// nothing. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] when this CPU cannot host guests, which the log
    /// says in words; [`Error::NoMemory`].
    pub fn new(hal: &H, cpus: u32) -> Result<Self, Error> {
        let refused = |reason: Unsupported| reason.refuse(hal, "SVM");
        // SAFETY: this is the kernel.
        let features = unsafe { facts() }.features().map_err(refused)?;
        let Ok(format) = features.entry_format(Level::L4) else {
            return Err(refused(Unsupported::UnknownFormat));
        };
        let cpus = array(hal, cpus as usize, |_| PerCpu {
            host: Pages::new(hal, 2).ok(),
            asids: Asids::default(),
            last: AtomicU64::new(0),
            stuff: AtomicBool::new(true),
        })?;
        if cpus.iter().any(|cpu| cpu.host.is_none()) {
            return Err(Error::NoMemory);
        }
        let mut maps = Pages::new(hal, PORTS + permission::MSR_MAP / PAGE)?;
        maps.bytes().fill(0xff);
        permission::open(maps.bytes().get_mut(PORTS * PAGE..).unwrap_or_default());
        Ok(Self {
            hal: hal.clone(),
            features,
            format,
            cpus,
            maps,
            next: AtomicU64::new(1),
        })
    }

    /// What this CPU has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// A new vCPU.
    pub(crate) fn vcpu(&self) -> Result<Box<SvmVcpu<H>, H>, Error> {
        let maps = Maps {
            ports: self.maps.hpa(0),
            msrs: self.maps.hpa(PORTS),
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        SvmVcpu::new(&self.hal, number, maps, self.features.has)
    }

    /// Begins a run on this CPU, whose interrupts are off, as
    /// [`Vendor::switch_in`](waterbear_core::vendor::Vendor::switch_in).
    pub(crate) fn begin(&self, vcpu: &mut SvmVcpu<H>, cpu: CpuId, root: Pfn) -> Result<(), Exit> {
        let features = &self.features;
        let Some(PerCpu {
            host: Some(host),
            asids,
            last,
            stuff,
        }) = self.cpus.get(cpu as usize)
        else {
            return Err(Exit::Refused(code::INVALID));
        };
        if vcpu.prepare(root) {
            return Err(Exit::NmiWindow);
        }
        let flush = core::mem::take(&mut vcpu.flush);
        if flush || !asids.still_good(cpu, &vcpu.held) {
            let (count, by_asid) = (features.asids, features.has.contains(Has::FLUSH_BY_ASID));
            let (held, forget) = asids.assign(cpu, vcpu.held, count, flush, by_asid);
            vcpu.prepare_tlb(held, forget);
        }
        if last.load(Ordering::Relaxed) != vcpu.number {
            last.store(vcpu.number, Ordering::Relaxed);
            if features.has.contains(Has::PREDICTION_BARRIER) {
                // The last guest on this CPU must not steer this one's branches.
                // SAFETY: the CPU has the register.
                unsafe { write_msr(PRED_CMD, 1) }
            }
        }
        let cr4 = vcpu.block.fields().save.cr4;
        vcpu.run = Some(Run {
            // SAFETY: interrupts are off until `end`; every CPU has these features.
            by_hand: unsafe { ByHand::load(&vcpu.switched, cr4, vcpu.tsc_aux, features.has) },
            host: host.hpa(1),
            stuff: stuff.load(Ordering::Relaxed),
            cpu,
        });
        Ok(())
    }

    /// Runs the guest until its next exit.
    #[inline(always)]
    pub(crate) fn enter_once(&self, vcpu: &mut SvmVcpu<H>) -> Left {
        vcpu.write_registers();
        let SvmVcpu {
            block, regs, run, ..
        } = vcpu;
        let Some(run) = run else {
            let exit = Exit::Refused(code::INVALID);
            return Left { exit, whole: false };
        };
        // SAFETY: a run has begun: this is a CPU where the core has enabled SVM, with interrupts
        // off; block and pages are ours and of this CPU.
        unsafe { world::run(block.hpa(), run.host, regs, run.stuff) }
        let block = block.fields();
        let why = reason(&block.control);
        run.by_hand.left(block.save.cr2, block.save.dr6);
        let exit = vcpu.finish();
        let whole = why != code::MACHINE_CHECK && vcpu.event.is_none() && !vcpu.nmi.is_busy();
        Left { exit, whole }
    }

    /// Ends a run.
    pub(crate) fn end(&self, vcpu: &mut SvmVcpu<H>) {
        // In place: it is large.
        let Some(run) = &vcpu.run else {
            return;
        };
        // SAFETY: this is the CPU of `begin`, and interrupts are off since.
        unsafe { run.by_hand.restore(&mut vcpu.switched, vcpu.tsc_aux) }
        let cpu = run.cpu;
        vcpu.run = None;
        match reason(&vcpu.block.fields().control) {
            code::INVALID => {
                // Nobody says that the CPU forgot anything before it refused.
                vcpu.flush = true;
                if let Some(per_cpu) = self.cpus.get(cpu as usize) {
                    per_cpu.asids.restart();
                }
            }
            // SAFETY: the host's state is complete again.
            code::MACHINE_CHECK => unsafe { machine_check() },
            _ => {}
        }
    }
}

impl<H: Hal> Hardware for Svm<H> {
    fn name(&self) -> &'static str {
        "SVM"
    }

    fn entry_format(&self) -> EntryFormat {
        self.format
    }

    fn check_cpu(&self, cpu: CpuId) -> Result<(), Unsupported> {
        if cpu as usize >= self.cpus.len() {
            return Err(Unsupported::NumberTooHigh);
        }
        // SAFETY: this is the kernel.
        let here = unsafe { facts() }.features()?;
        if here == self.features {
            Ok(())
        } else {
            Err(Unsupported::Differs)
        }
    }

    fn is_enabled(&self, _cpu: CpuId) -> bool {
        // SAFETY: every 64-bit CPU has the register.
        unsafe { read_msr(EFER) & EFER_SVME != 0 }
    }

    fn enable_cpu(&self, cpu: CpuId) -> Result<(), EnableError> {
        let Some(per_cpu) = self.cpus.get(cpu as usize) else {
            return Err(EnableError::Failed);
        };
        let host = per_cpu.host.as_ref().ok_or(EnableError::Failed)?;
        if self.is_enabled(cpu) {
            return Err(EnableError::Busy);
        }
        // Whatever the TLB holds of our identifiers is from a time before.
        per_cpu.asids.restart();
        per_cpu.last.store(0, Ordering::Relaxed);
        // SAFETY: every 64-bit CPU has the register.
        let efer = unsafe { read_msr(EFER) };
        let stuff = efer & EFER_AIBRSE == 0 && self.hal.distrusts_predictions();
        per_cpu.stuff.store(stuff, Ordering::Relaxed);
        // SAFETY: the CPU has SVM and firmware allows it (`check_cpu`).
        unsafe { write_msr(EFER, efer | EFER_SVME) }
        // SAFETY: SVM is on, and the page is this CPU's own.
        unsafe { write_msr(VM_HSAVE_PA, host.hpa(0).0) }
        Ok(())
    }

    fn disable_cpu(&self, cpu: CpuId) {
        if !self.is_enabled(cpu) {
            return;
        }
        // SAFETY: SVM is on; nothing is kept in the page between runs.
        unsafe { write_msr(VM_HSAVE_PA, 0) }
        // SAFETY: as above.
        let efer = unsafe { read_msr(EFER) };
        // SAFETY: no guest runs on this CPU, whose interrupts are off.
        unsafe { write_msr(EFER, efer & !EFER_SVME) }
    }
}
