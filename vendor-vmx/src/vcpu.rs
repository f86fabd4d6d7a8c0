//! A vCPU's state that is VMX's, and its control structure as a new one is.
use core::num::NonZeroU16;

use waterbear_core::Error;
use waterbear_core::arch::{Cr0, Cr4, Efer, Event};
use waterbear_core::mem::{Box, Shared, boxed};
use waterbear_core::regs::{Regs, Switched};
use waterbear_core::vendor::Msr;
use waterbear_hal::{CpuId, Hal};
use x86::vmx::vmcs::control::SecondaryControls;
use x86::vmx::vmcs::{control, guest};

use crate::controls::{FIELDS, Group};
use crate::cpu;
use crate::exit::ToDo;
use crate::fields::Current;
use crate::host::Host;
use crate::machine::Machine;
use crate::pages::Page;
use crate::swap::{Fixed, Msrs, Swapped};

/// The bits of CR0 that the guest changes without an exit.
pub const CR0_GUEST: u64 = Cr0::MP
    .union(Cr0::EM)
    .union(Cr0::TS)
    .union(Cr0::WP)
    .union(Cr0::AM)
    .bits();
/// The bits of CR0 that hardware has clear whatever the guest sees: caches stay on.
const CR0_NEVER: u64 = Cr0::NW.union(Cr0::CD).bits();
/// PAT after a reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// #DB, #AC and #MC: the first two can be raised again and again by their own delivery, which
/// would keep the CPU in the guest for good; the last is the host's.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;

/// Fields that begin as zero, two apart: the first, and how many. Of some the CPU has no use.
const ZEROS: [(u16, u8); 7] = [
    (control::IO_BITMAP_A_ADDR_FULL as u16, 23),
    (control::PINBASED_EXEC_CONTROLS as u16, 18),
    (control::CR0_GUEST_HOST_MASK as u16, 4),
    (guest::ES_SELECTOR as u16, 8),
    (guest::IA32_DEBUGCTL_FULL as u16, 8),
    (guest::ES_LIMIT as u16, 22),
    (guest::CR0 as u16, 20),
];

/// What the control structure has, as far as it is worth knowing.
#[derive(Clone, Copy, Default)]
pub struct Written {
    /// EPTP.
    pub pointer: u64,
    /// The primary controls.
    pub primary: u32,
    /// DR7.
    pub dr7: u64,
    /// RIP.
    pub rip: u64,
    /// RSP.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Interruptibility.
    pub blocking: u64,
    /// VM-entry interruption information that is valid.
    pub event: bool,
}

/// A vCPU's state that is VMX's. What every vendor has comes first, so that it is in one place
/// whoever the vendor is.
///
/// It is dropped in process context, with interrupts on: its control structure may have to be
/// fetched from another CPU.
#[repr(C)]
pub struct VmxVcpu<H: Hal> {
    pub(crate) regs: Regs,
    pub(crate) switched: Switched,
    pub(crate) machine: Shared<Machine<H>, H>,
    /// The control structure.
    pub(crate) block: Page<H>,
    pub(crate) vpid: Option<NonZeroU16>,
    /// The CPU on which the structure was current last.
    pub(crate) cpu: CpuId,
    /// The CPU on which it ran last.
    pub(crate) ran_on: Option<CpuId>,
    /// The control structure has been written.
    pub(crate) initialised: bool,
    /// It has been launched since it was loaded.
    pub(crate) launched: bool,
    /// `Some` while a run lasts: between `begin` and `end`.
    pub(crate) swapped: Option<Swapped>,
    /// The next entry forgets what the TLB holds.
    pub(crate) flush: bool,
    pub(crate) host: Host,
    pub(crate) fixed: Fixed,
    pub(crate) written: Written,
    /// PAT is held only: EPT entries say of which memory type a page is, whatever it says.
    pub(crate) msrs: Msrs,
    /// CR0 as the guest sees it, where it may not change it.
    pub(crate) cr0: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: Efer,
    /// The primary controls for the next entry.
    pub(crate) primary: u32,
    /// To be delivered at the next entry, or cut short by the last exit.
    pub(crate) event: Option<Event>,
    /// Interruptibility, for the next entry: what holds events off.
    pub(crate) blocking: u64,
    /// What the last exit took from the host, until it has it back.
    pub(crate) raise: ToDo,
    /// Of the instruction that left.
    pub(crate) length: u8,
}

impl<H: Hal> VmxVcpu<H> {
    /// As after a reset, with every segment at address 0. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    #[inline(never)]
    pub(crate) fn new(hal: &H, machine: Shared<Machine<H>, H>) -> Result<Box<Self, H>, Error> {
        let vcpu = Self {
            regs: Regs::default(),
            switched: Switched::RESET,
            block: Page::new(hal, machine.features.revision)?,
            vpid: machine.take_vpid(),
            machine,
            cpu: 0,
            ran_on: None,
            initialised: false,
            launched: false,
            swapped: None,
            flush: true,
            host: Host::default(),
            fixed: Fixed::default(),
            written: Written::default(),
            msrs: Msrs::default(),
            cr0: 0,
            cr4: 0,
            efer: Efer::empty(),
            primary: 0,
            event: None,
            raise: ToDo::empty(),
            blocking: 0,
            length: 0,
        };
        let mut vcpu = boxed(hal, vcpu)?;
        vcpu.regs.rflags = 2;
        vcpu.msrs[Msr::Pat as usize] = PAT_RESET;
        vcpu.cr0 = Cr0::ET.bits();
        vcpu.primary = vcpu.machine.controls.get(Group::Primary);
        Ok(vcpu)
    }

    /// Where the control structure is.
    pub(crate) fn address(&self) -> u64 {
        self.block.address().0
    }

    /// Writes what does not change from entry to entry, and makes the guest a CPU in real mode, as
    /// after INIT but with every segment at address 0. Once per vCPU, because reading and writing
    /// fields takes a CPU on which VMX operation is on.
    pub(crate) fn initialise(&mut self, current: &Current) {
        // Most of it is zero.
        for &(first, count) in &ZEROS {
            current.clear(first.into(), count.into());
        }
        let controls = &self.machine.controls;
        for (&field, &value) in FIELDS.iter().zip(controls.all()) {
            current.write(field, value.into());
        }
        match self.vpid {
            Some(vpid) => current.write(control::VPID, vpid.get().into()),
            None => {
                let without =
                    controls.get(Group::Secondary) & !SecondaryControls::ENABLE_VPID.bits();
                current.write(control::SECONDARY_PROCBASED_EXEC_CONTROLS, without.into());
            }
        }
        current.write(control::EXCEPTION_BITMAP, EXCEPTIONS);
        // Ticks between two PAUSEs of one loop, and how long a loop may last; what of this and of
        // the next a CPU does not have, it does not need.
        current.write(control::PLE_GAP, 128);
        current.write(control::PLE_WINDOW, 4096);
        current.write(control::ENCLS_EXITING_BITMAP_FULL, u64::MAX);
        current.write(control::CR0_GUEST_HOST_MASK, !CR0_GUEST);
        current.write(control::CR4_GUEST_HOST_MASK, u64::MAX);
        current.write(guest::LINK_PTR_FULL, u64::MAX);
        const DATA: u8 = 0x93;
        const CODE: u8 = 0x9b;
        const LDT: u8 = 0x82;
        const TSS: u8 = 0x8b;
        const RIGHTS: [u8; 8] = [DATA, CODE, DATA, DATA, DATA, DATA, LDT, TSS];
        for (at, &rights) in (0..).step_by(2).zip(&RIGHTS) {
            current.write(guest::ES_ACCESS_RIGHTS + at, rights.into());
        }
        // Behind the segments come both tables.
        for at in 0..RIGHTS.len() as u32 + 2 {
            current.write(guest::ES_LIMIT + 2 * at, 0xffff);
        }
        // They may have been set already, and are on their way.
        current.write_all(&self.set_cr0(self.cr0));
        current.write_all(&self.set_cr4(self.cr4));
        current.write_all(&self.set_efer(self.efer));
        self.written = Written {
            primary: self.machine.controls.get(Group::Primary),
            ..Written::default()
        };
    }

    /// Sets CR0; returns what is to be written. What hardware needs set is set, what we need clear
    /// is clear; the guest sees neither, because those bits are not its own.
    pub(crate) fn set_cr0(&mut self, value: u64) -> [(u32, u64); 2] {
        let real = value & !CR0_NEVER | self.machine.cr0_must;
        self.cr0 = value;
        [(guest::CR0, real), (control::CR0_READ_SHADOW, value)]
    }

    /// Sets CR4, in the same way. Machine checks are on while the guest runs where the host has them
    /// on: one that comes is the host's, and with the bit clear it would shut the CPU down.
    pub(crate) fn set_cr4(&mut self, value: u64) -> [(u32, u64); 2] {
        const HOSTS: u64 = Cr4::VMXE.union(Cr4::MCE).bits();
        let hosts = cpu::read_cr4() & Cr4::MCE.bits() | self.machine.cr4_must;
        self.cr4 = value;
        let real = value & !HOSTS | hosts;
        [(guest::CR4, real), (control::CR4_READ_SHADOW, value)]
    }

    /// Sets EFER, and with it whether the guest is in long mode; returns what is to be written.
    pub(crate) fn set_efer(&mut self, value: Efer) -> [(u32, u64); 3] {
        let long = value.contains(Efer::LMA);
        self.efer = value;
        let machine = &*self.machine;
        let entry = machine.controls.entry_for(long);
        [
            (guest::IA32_EFER_FULL, value.bits()),
            (control::MSR_BITMAPS_ADDR_FULL, machine.bitmap(long).0),
            (control::VMENTRY_CONTROLS, entry.into()),
        ]
    }
}

impl<H: Hal> Drop for VmxVcpu<H> {
    fn drop(&mut self) {
        self.machine.cpus.send_home(self.cpu, self.address());
        if let Some(vpid) = self.vpid {
            self.machine.vpids.give_back(vpid);
        }
    }
}
