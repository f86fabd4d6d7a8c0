//! VMX as the core's vendor.
#![expect(
    unsafe_code,
    reason = "control structures live where hardware reads them"
)]
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::mem::{Box, Heap, Vec};
use waterbear_core::regs::Regs;
use waterbear_core::spte::EntryFormat;
use waterbear_core::tdp::fast::Access;
use waterbear_core::vendor::{EnableError, Hardware, Unsupported, Vendor};
use waterbear_hal::{CpuId, Gpa, Hal, Pfn};
use x86::bits64::vmx::{vmclear, vmptrld};
use x86::msr::{IA32_VMX_CR0_FIXED0, IA32_VMX_CR4_FIXED0, rdmsr};
use x86::vmx::vmcs::{control, guest, ro};

use crate::controls::Controls;
use crate::cpu;
use crate::detect::Features;
use crate::state::Current;
use crate::world;

/// Exit reasons that are handled ("VMX Basic Exit Reasons").
mod reason {
    pub const EXCEPTION_OR_NMI: u64 = 0;
    pub const INTERRUPT: u64 = 1;
    pub const TRIPLE_FAULT: u64 = 2;
    pub const HLT: u64 = 12;
    pub const IO: u64 = 30;
    pub const INVALID_GUEST: u64 = 33;
    pub const EPT_VIOLATION: u64 = 48;
    pub const EPT_MISCONFIGURATION: u64 = 49;
    /// The bit that says that the entry failed.
    pub const ENTRY_FAILED: u64 = 1 << 31;
}

/// Protected mode and paging: with unrestricted guests the guest may have them
/// off although VMX operation wants them on.
const CR0_PE_PG: u64 = 1 | 1 << 31;

/// A page that begins with the revision of control structures.
struct Region<H: Hal> {
    hal: H,
    pfn: Pfn,
}

impl<H: Hal> Region<H> {
    fn new(hal: &H, revision: u32) -> Result<Self, Error> {
        let pfn = hal.alloc_pages(1)?;
        // SAFETY: the page is ours until it is freed.
        let start = unsafe { hal.pages(pfn) };
        // SAFETY: a page is large and aligned enough.
        unsafe { start.cast::<u32>().write(revision) }
        Ok(Self {
            hal: hal.clone(),
            pfn,
        })
    }
}

impl<H: Hal> Drop for Region<H> {
    fn drop(&mut self) {
        // SAFETY: from `new`; whoever owned this value keeps no CPU that uses
        // it.
        unsafe { self.hal.free_pages(self.pfn, 1) }
    }
}

/// Intel's hardware virtualisation on this machine.
pub struct Vmx<H: Hal> {
    hal: H,
    features: Features,
    controls: Controls,
    format: EntryFormat,
    /// Per CPU, where it keeps its state while VMX operation is on.
    cpus: Box<[Region<H>], H>,
    /// Per CPU, the vCPU that ran last, by number.
    last: Box<[AtomicU64], H>,
    /// The number that the next vCPU gets.
    next: AtomicU64,
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
        // SAFETY: this is the kernel.
        let features = match unsafe { cpu::facts() }.features() {
            Ok(features) => features,
            Err(reason) => {
                hal.info(format_args!("VMX: this CPU {reason}"));
                return Err(Error::NotSupported);
            }
        };
        let controls = Controls::new(&features);
        let (Ok(controls), Ok(format)) = (controls, features.entry_format()) else {
            hal.info(format_args!("VMX: this CPU lacks controls that are needed"));
            return Err(Error::NotSupported);
        };
        let mut regions = Vec::new_in(Heap(hal.clone()));
        regions.try_reserve_exact(cpus as usize)?;
        for _ in 0..cpus {
            regions.push(Region::new(hal, features.revision)?);
        }
        Ok(Self {
            hal: hal.clone(),
            features,
            controls,
            format,
            cpus: regions.into_boxed_slice(),
            last: waterbear_core::mem::array(hal, cpus as usize, |_| AtomicU64::new(0))?,
            next: AtomicU64::new(1),
        })
    }

    /// What this CPU has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The EPT pointer for a root table.
    fn ept_pointer(&self, root: Pfn) -> u64 {
        const WRITE_BACK: u64 = 6;
        const FOUR_LEVELS: u64 = 3 << 3;
        const ACCESSED_DIRTY: u64 = 1 << 6;
        let flags = if self.features.ept.accessed_dirty {
            ACCESSED_DIRTY
        } else {
            0
        };
        root.hpa().0 | WRITE_BACK | FOUR_LEVELS | flags
    }

    /// Writes what does not change from entry to entry. Once per vCPU, because
    /// reading and writing fields takes a CPU on which VMX operation is on.
    fn initialise(&self, current: &Current) {
        let controls = &self.controls;
        current.write(control::PINBASED_EXEC_CONTROLS, controls.pin.into());
        current.write(
            control::PRIMARY_PROCBASED_EXEC_CONTROLS,
            controls.primary.into(),
        );
        current.write(
            control::SECONDARY_PROCBASED_EXEC_CONTROLS,
            controls.secondary.into(),
        );
        current.write(control::VMEXIT_CONTROLS, controls.exit.into());
        current.write(control::VMENTRY_CONTROLS, controls.entry.into());
        current.write(control::EXCEPTION_BITMAP, 0);
        // SAFETY: a CPU with VMX has the registers.
        let cr0_must = unsafe { rdmsr(IA32_VMX_CR0_FIXED0) } & !CR0_PE_PG;
        // SAFETY: as above.
        let cr4_must = unsafe { rdmsr(IA32_VMX_CR4_FIXED0) };
        // What must be set is ours; the guest sees it clear.
        current.write(control::CR0_GUEST_HOST_MASK, cr0_must);
        current.write(control::CR0_READ_SHADOW, 0x10);
        current.write(control::CR4_GUEST_HOST_MASK, cr4_must);
        current.write(control::CR4_READ_SHADOW, 0);
        current.reset_guest(cr0_must, cr4_must);
    }

    /// Runs the guest until its next exit. The control structure is loaded
    /// here and cleared again, so it is on no CPU in between and the vCPU may
    /// move.
    fn run(&self, vcpu: &mut VmxVcpu<H>, cpu: usize, root: Pfn) -> Exit {
        let block = vcpu.block.pfn.hpa().0;
        // SAFETY: the core enters only on CPUs where VMX operation is on, with
        // interrupts off; the region is ours and on no other CPU.
        let loaded = unsafe { vmclear(block) }.and_then(|()|
            // SAFETY: as above.
            unsafe { vmptrld(block) });
        if loaded.is_err() {
            return Exit::Refused;
        }
        // SAFETY: just loaded.
        let current = unsafe { Current::new() };
        if !core::mem::replace(&mut vcpu.initialised, true) {
            self.initialise(&current);
        }
        current.save_host();
        let pointer = self.ept_pointer(root);
        current.write(control::EPTP_FULL, pointer);
        current.write(guest::RIP, vcpu.regs.rip);
        current.write(guest::RSP, vcpu.regs.general[Regs::RSP]);
        current.write(guest::RFLAGS, vcpu.regs.rflags);
        let stranger = self
            .last
            .get(cpu)
            .is_some_and(|last| last.swap(vcpu.number, Ordering::Relaxed) != vcpu.number);
        if core::mem::take(&mut vcpu.flush) || stranger {
            // SAFETY: VMX operation is on, and `detect` wants this form.
            unsafe { cpu::invept(pointer) }
        }
        // SAFETY: the structure is in the clear state, `save_host` described
        // the host, interrupts are off.
        let entered = unsafe { world::run(&mut vcpu.regs) };
        let exit = if entered {
            vcpu.regs.rip = current.read(guest::RIP);
            vcpu.regs.general[Regs::RSP] = current.read(guest::RSP);
            vcpu.regs.rflags = current.read(guest::RFLAGS);
            exit(&current, &mut vcpu.regs)
        } else {
            Exit::Refused
        };
        // SAFETY: as above; writes the structure back to memory.
        let _ = unsafe { vmclear(block) };
        exit
    }
}

/// Why the guest was left.
fn exit(current: &Current, regs: &mut Regs) -> Exit {
    let qualification = current.read(ro::EXIT_QUALIFICATION);
    let length = current.read(ro::VMEXIT_INSTRUCTION_LEN);
    let gpa = Gpa(current.read(ro::GUEST_PHYSICAL_ADDR_FULL));
    match current.read(ro::EXIT_REASON) {
        reason::EXCEPTION_OR_NMI => {
            const TYPE: u64 = 7 << 8;
            const NMI: u64 = 2 << 8;
            let info = current.read(ro::VMEXIT_INTERRUPTION_INFO);
            if info & TYPE == NMI {
                // The exit took the NMI; the host's handler must see it.
                // SAFETY: the handler runs as for any NMI.
                unsafe { asm!("int 2") }
                return Exit::Interrupt;
            }
            Exit::Unknown(reason::EXCEPTION_OR_NMI)
        }
        reason::INTERRUPT => Exit::Interrupt,
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::HLT => {
            regs.rip += length;
            Exit::Halt
        }
        reason::IO => {
            regs.rip += length;
            Exit::Io(IoExit {
                port: (qualification >> 16) as u16,
                size: (qualification & 7) as u8 + 1,
                input: qualification & 1 << 3 != 0,
                string: qualification & 1 << 4 != 0,
                repeat: qualification & 1 << 5 != 0,
            })
        }
        reason::EPT_VIOLATION => {
            const ADDRESS_VALID: u64 = 1 << 7;
            const FINAL: u64 = 1 << 8;
            let access = Access {
                write: qualification & 1 << 1 != 0,
                exec: qualification & 1 << 2 != 0,
                guest_walk: qualification & (ADDRESS_VALID | FINAL) == ADDRESS_VALID,
            };
            Exit::Fault { gpa, access }
        }
        // The exit does not say how the guest touched it.
        reason::EPT_MISCONFIGURATION => Exit::Mmio {
            gpa,
            access: Access::default(),
        },
        why if why & reason::ENTRY_FAILED != 0 || why == reason::INVALID_GUEST => Exit::Refused,
        other => Exit::Unknown(other),
    }
}

impl<H: Hal> Hardware for Vmx<H> {
    fn name(&self) -> &'static str {
        "VMX"
    }

    fn entry_format(&self) -> EntryFormat {
        self.format
    }

    fn check_cpu(&self, cpu: CpuId) -> Result<(), Unsupported> {
        if cpu as usize >= self.cpus.len() {
            return Err(Unsupported::NumberTooHigh);
        }
        // SAFETY: this is the kernel.
        let here = unsafe { cpu::facts() }.features()?;
        // Whether it is locked is not a feature: the first CPU's may be locked
        // by us already.
        let here = Features {
            unlocked: self.features.unlocked,
            ..here
        };
        if here == self.features {
            Ok(())
        } else {
            Err(Unsupported::Differs)
        }
    }

    fn is_enabled(&self, _cpu: CpuId) -> bool {
        cpu::is_enabled()
    }

    fn enable_cpu(&self, cpu: CpuId) -> Result<(), EnableError> {
        let (Some(region), Some(last)) = (self.cpus.get(cpu as usize), self.last.get(cpu as usize))
        else {
            return Err(EnableError::Failed);
        };
        if cpu::is_enabled() {
            return Err(EnableError::Busy);
        }
        // SAFETY: this is the kernel.
        let unlocked = unsafe { cpu::facts() }
            .features()
            .is_ok_and(|features| features.unlocked);
        if unlocked {
            // SAFETY: it is not locked.
            unsafe { cpu::unlock() }
        }
        last.store(0, Ordering::Relaxed);
        // SAFETY: `check_cpu` passed, VMX is off, interrupts are off, and the
        // region is this CPU's.
        if unsafe { cpu::vmxon(region.pfn.hpa()) } {
            Ok(())
        } else {
            Err(EnableError::Failed)
        }
    }

    fn disable_cpu(&self, _cpu: CpuId) {
        if cpu::is_enabled() {
            // SAFETY: it is on, and a control structure is current only inside
            // `run`.
            unsafe { cpu::vmxoff() }
        }
    }
}

impl<H: Hal> Vendor for Vmx<H> {
    type Vcpu = VmxVcpu<H>;

    fn new_vcpu(&self) -> Result<VmxVcpu<H>, Error> {
        Ok(VmxVcpu {
            block: Region::new(&self.hal, self.features.revision)?,
            regs: Regs {
                rflags: 2,
                ..Regs::default()
            },
            number: self.next.fetch_add(1, Ordering::Relaxed),
            initialised: false,
            flush: true,
        })
    }

    fn enter(&self, vcpu: &mut VmxVcpu<H>, root: Pfn) -> Exit {
        let cpu = self.hal.pin() as usize;
        let exit = self.run(vcpu, cpu, root);
        // SAFETY: pairs with the `pin` above.
        unsafe { self.hal.unpin() }
        exit
    }

    fn regs<'a>(&self, vcpu: &'a mut VmxVcpu<H>) -> &'a mut Regs {
        &mut vcpu.regs
    }

    fn flush_tlb(&self, vcpu: &mut VmxVcpu<H>) {
        vcpu.flush = true;
    }
}

/// A vCPU's state that is VMX's.
pub struct VmxVcpu<H: Hal> {
    block: Region<H>,
    regs: Regs,
    number: u64,
    /// The control structure has been written.
    initialised: bool,
    /// The next entry forgets what the TLB holds.
    flush: bool,
}
