//! SVM as the core's vendor.
#![expect(unsafe_code, reason = "control blocks live where hardware reads them")]
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::mem::{Box, Heap, Vec};
use waterbear_core::regs::Regs;
use waterbear_core::spte::EntryFormat;
use waterbear_core::tdp::fast::Access;
use waterbear_core::vendor::{EnableError, Hardware, Unsupported, Vendor};
use waterbear_hal::{CpuId, Gpa, Hal, Level, Pfn};

use crate::cpu::{EFER, VM_HSAVE_PA, facts, read_msr, write_msr};
use crate::detect::Features;
use crate::vmcb::{self, EFER_SVME, Intercept3, Intercept4, Vmcb, code};
use crate::world;

/// Every guest of this host uses this address-space identifier, so a CPU
/// forgets it when another vCPU comes ([`PerCpu::last`]).
const ASID: u32 = 1;

/// Pages that hardware reads by physical address.
struct Pages<H: Hal> {
    hal: H,
    first: Pfn,
    count: usize,
}

impl<H: Hal> Pages<H> {
    fn new(hal: &H, count: usize) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            first: hal.alloc_pages(count)?,
            count,
        })
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: the pages are this value's until it is dropped.
        unsafe { self.hal.pages(self.first) }
    }

    /// Sets every byte.
    fn fill(&mut self, byte: u8) {
        // SAFETY: `count` pages that are this value's, and no hardware uses
        // them yet.
        unsafe { self.start().write_bytes(byte, self.count * 4096) }
    }
}

impl<H: Hal> Drop for Pages<H> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, and whoever owned this value keeps no
        // CPU that uses it.
        unsafe { self.hal.free_pages(self.first, self.count) }
    }
}

/// What a CPU needs while SVM is on.
struct PerCpu<H: Hal> {
    /// Where VMRUN keeps the host's state.
    save: Pages<H>,
    /// Where VMSAVE keeps the rest of it.
    host: Pages<H>,
    /// The vCPU that ran last, by number.
    last: AtomicU64,
}

/// AMD's hardware virtualisation on this machine.
pub struct Svm<H: Hal> {
    hal: H,
    features: Features,
    format: EntryFormat,
    cpus: Box<[PerCpu<H>], H>,
    /// Ports and MSRs: every access of the guest's exits.
    iopm: Pages<H>,
    msrpm: Pages<H>,
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
        // SAFETY: this is the kernel.
        let features = match unsafe { facts() }.features() {
            Ok(features) => features,
            Err(reason) => {
                hal.info(format_args!("SVM: this CPU {reason}"));
                return Err(Error::NotSupported);
            }
        };
        let Ok(format) = features.entry_format(Level::L4) else {
            hal.info(format_args!(
                "SVM: this CPU has an unknown page-table format"
            ));
            return Err(Error::NotSupported);
        };
        let mut list = Vec::new_in(Heap(hal.clone()));
        list.try_reserve_exact(cpus as usize)?;
        for _ in 0..cpus {
            list.push(PerCpu {
                save: Pages::new(hal, 1)?,
                host: Pages::new(hal, 1)?,
                last: AtomicU64::new(0),
            });
        }
        let mut iopm = Pages::new(hal, 3)?;
        iopm.fill(0xff);
        let mut msrpm = Pages::new(hal, 2)?;
        msrpm.fill(0xff);
        Ok(Self {
            hal: hal.clone(),
            features,
            format,
            cpus: list.into_boxed_slice(),
            iopm,
            msrpm,
            next: AtomicU64::new(1),
        })
    }

    /// What this CPU has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Why the guest was left.
    fn exit(&self, vcpu: &mut SvmVcpu<H>) -> Exit {
        let control = &vcpu.block().control;
        let (info1, info2) = (control.exit_info1, control.exit_info2);
        match control.exit_code {
            code::INTR | code::NMI => Exit::Interrupt,
            code::SHUTDOWN => Exit::Shutdown,
            code::INVALID => Exit::Refused,
            code::HLT => {
                // One byte, in every mode.
                vcpu.regs.rip += 1;
                Exit::Halt
            }
            code::IOIO => {
                // The next RIP is in the second word.
                vcpu.regs.rip = info2;
                Exit::Io(IoExit {
                    port: (info1 >> 16) as u16,
                    size: (info1 >> 4 & 7) as u8,
                    input: info1 & 1 != 0,
                    string: info1 & 1 << 2 != 0,
                    repeat: info1 & 1 << 3 != 0,
                })
            }
            code::NPF => {
                const WRITE: u64 = 1 << 1;
                const RESERVED: u64 = 1 << 3;
                const FETCH: u64 = 1 << 4;
                const GUEST_WALK: u64 = 1 << 33;
                let access = Access {
                    write: info1 & WRITE != 0,
                    exec: info1 & FETCH != 0,
                    guest_walk: info1 & GUEST_WALK != 0,
                };
                let gpa = Gpa(info2);
                if info1 & RESERVED != 0 {
                    Exit::Mmio { gpa, access }
                } else {
                    Exit::Fault { gpa, access }
                }
            }
            other => Exit::Unknown(other),
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
        let per_cpu = self.cpus.get(cpu as usize).ok_or(EnableError::Failed)?;
        if self.is_enabled(cpu) {
            return Err(EnableError::Busy);
        }
        // Whatever the TLB holds of our identifier is from a time before.
        per_cpu.last.store(0, Ordering::Relaxed);
        // SAFETY: every 64-bit CPU has the register.
        let efer = unsafe { read_msr(EFER) };
        // SAFETY: the CPU has SVM and firmware allows it (`check_cpu`).
        unsafe { write_msr(EFER, efer | EFER_SVME) }
        // SAFETY: SVM is on, and the page is this CPU's own.
        unsafe { write_msr(VM_HSAVE_PA, per_cpu.save.first.hpa().0) }
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

impl<H: Hal> Vendor for Svm<H> {
    type Vcpu = SvmVcpu<H>;

    fn new_vcpu(&self) -> Result<SvmVcpu<H>, Error> {
        let mut vcpu = SvmVcpu {
            block: Pages::new(&self.hal, 1)?,
            regs: Regs {
                rflags: 2,
                ..Regs::default()
            },
            number: self.next.fetch_add(1, Ordering::Relaxed),
            flush: true,
        };
        let block = vcpu.block();
        let control = &mut block.control;
        control.intercept3 = (Intercept3::INTR
            | Intercept3::NMI
            | Intercept3::SMI
            | Intercept3::INIT
            | Intercept3::CPUID
            | Intercept3::INVD
            | Intercept3::HLT
            | Intercept3::IOIO
            | Intercept3::MSR
            | Intercept3::TASK_SWITCH
            | Intercept3::SHUTDOWN)
            .bits();
        control.intercept4 = Intercept4::all().bits();
        control.iopm_base = self.iopm.first.hpa().0;
        control.msrpm_base = self.msrpm.first.hpa().0;
        control.asid = ASID;
        control.virtual_interrupt = vmcb::HOST_INTERRUPT_FLAG;
        control.nested_control = vmcb::NESTED_PAGING;
        block.save.reset();
        Ok(vcpu)
    }

    fn enter(&self, vcpu: &mut SvmVcpu<H>, root: Pfn) -> Exit {
        let cpu = self.hal.pin() as usize;
        let exit = match self.cpus.get(cpu) {
            Some(per_cpu) => {
                vcpu.run(per_cpu, root);
                self.exit(vcpu)
            }
            None => Exit::Refused,
        };
        // SAFETY: pairs with the `pin` above.
        unsafe { self.hal.unpin() }
        exit
    }

    fn regs<'a>(&self, vcpu: &'a mut SvmVcpu<H>) -> &'a mut Regs {
        &mut vcpu.regs
    }

    fn flush_tlb(&self, vcpu: &mut SvmVcpu<H>) {
        vcpu.flush = true;
    }
}

/// A vCPU's state that is SVM's.
pub struct SvmVcpu<H: Hal> {
    block: Pages<H>,
    regs: Regs,
    number: u64,
    /// The next entry forgets what the TLB holds.
    flush: bool,
}

impl<H: Hal> SvmVcpu<H> {
    fn block(&mut self) -> &mut Vmcb {
        // SAFETY: one page, aligned, initialised to zero and then by us, of
        // integers only; hardware uses it only inside `run`.
        unsafe { self.block.start().cast::<Vmcb>().as_mut() }
    }

    /// Runs the guest until its next exit, on the CPU of `per_cpu`.
    fn run(&mut self, per_cpu: &PerCpu<H>, root: Pfn) {
        let regs = self.regs;
        let stranger = per_cpu.last.swap(self.number, Ordering::Relaxed) != self.number;
        let flush = core::mem::take(&mut self.flush) || stranger;
        let block = self.block();
        block.control.nested_cr3 = root.hpa().0;
        block.control.tlb_control = if flush {
            vmcb::TLB_FLUSH_ALL
        } else {
            vmcb::TLB_KEEP
        };
        block.save.rax = regs.general[Regs::RAX];
        block.save.rsp = regs.general[Regs::RSP];
        block.save.rip = regs.rip;
        block.save.rflags = regs.rflags;
        // SAFETY: the core enters only on CPUs where SVM was enabled, with
        // interrupts off; block and pages are ours and of this CPU.
        unsafe {
            world::run(
                self.block.first.hpa(),
                per_cpu.host.first.hpa(),
                &mut self.regs,
            );
        }
        let save = &self.block().save;
        let (rax, rsp, rip, rflags) = (save.rax, save.rsp, save.rip, save.rflags);
        self.regs.general[Regs::RAX] = rax;
        self.regs.general[Regs::RSP] = rsp;
        self.regs.rip = rip;
        self.regs.rflags = rflags;
    }
}
