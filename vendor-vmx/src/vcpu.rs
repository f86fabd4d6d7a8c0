//! A vCPU's state that is VMX's, and its control structure as a new one is.
use core::num::NonZeroU16;

use waterbear_core::Error;
use waterbear_core::arch::{Cr0, Cr4, Efer, Event};
use waterbear_core::mem::Shared;
use waterbear_core::regs::{Regs, Switched};
use waterbear_hal::{CpuId, Hal};
use x86::vmx::vmcs::control::SecondaryControls;
use x86::vmx::vmcs::{control, guest};

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

/// A vCPU's state that is VMX's.
///
/// It is dropped in process context, with interrupts on: its control structure may have to be
/// fetched from another CPU.
pub struct VmxVcpu<H: Hal> {
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
    pub(crate) regs: Regs,
    pub(crate) switched: Switched,
    pub(crate) msrs: Msrs,
    /// Held only: EPT entries say of which memory type a page is, whatever PAT says.
    pub(crate) pat: u64,
    /// CR0 as the guest sees it, where it may not change it.
    pub(crate) cr0: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: Efer,
    /// The primary controls for the next entry.
    pub(crate) primary: u32,
    /// To be delivered at the next entry.
    pub(crate) event: Option<Event>,
    /// Cut short by the last exit.
    pub(crate) undelivered: Option<Event>,
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
    pub(crate) fn new(hal: &H, machine: Shared<Machine<H>, H>) -> Result<Self, Error> {
        let block = Page::new(hal, &machine.features.revision.to_le_bytes())?;
        let vpid = machine.take_vpid();
        Ok(Self {
            primary: machine.controls.primary,
            machine,
            block,
            vpid,
            cpu: 0,
            ran_on: None,
            initialised: false,
            launched: false,
            swapped: None,
            flush: true,
            host: Host::default(),
            fixed: Fixed::default(),
            written: Written::default(),
            regs: Regs {
                rflags: 2,
                ..Regs::default()
            },
            switched: Switched::RESET,
            msrs: Msrs::default(),
            pat: PAT_RESET,
            cr0: Cr0::ET.bits(),
            cr4: 0,
            efer: Efer::empty(),
            event: None,
            undelivered: None,
            raise: ToDo::empty(),
            blocking: 0,
            length: 0,
        })
    }

    /// Where the control structure is.
    pub(crate) fn address(&self) -> u64 {
        self.block.address().0
    }

    /// Writes what does not change from entry to entry. Once per vCPU, because
    /// reading and writing fields takes a CPU on which VMX operation is on.
    pub(crate) fn initialise(&mut self, current: &Current) {
        let machine = &*self.machine;
        let controls = &machine.controls;
        let mut secondary = controls.secondary;
        match self.vpid {
            Some(vpid) => current.write(control::VPID, vpid.get().into()),
            None => secondary &= !SecondaryControls::ENABLE_VPID.bits(),
        }
        let write = |field, value: u32| current.write(field, value.into());
        write(control::PINBASED_EXEC_CONTROLS, controls.pin);
        write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, controls.primary);
        write(control::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary);
        write(control::VMEXIT_CONTROLS, controls.exit);
        current.write(control::EXCEPTION_BITMAP, EXCEPTIONS);
        // No page fault exits.
        write(control::PAGE_FAULT_ERR_CODE_MASK, 0);
        write(control::PAGE_FAULT_ERR_CODE_MATCH, 0);
        write(control::CR3_TARGET_COUNT, 0);
        write(control::VMEXIT_MSR_STORE_COUNT, 0);
        write(control::VMEXIT_MSR_LOAD_COUNT, 0);
        write(control::VMENTRY_MSR_LOAD_COUNT, 0);
        write(control::VMENTRY_INTERRUPTION_INFO_FIELD, 0);
        current.write(control::TSC_OFFSET_FULL, 0);
        if controls.has(SecondaryControls::PAUSE_LOOP_EXITING) {
            // Ticks between two PAUSEs of one loop, and how long a loop may last.
            write(control::PLE_GAP, 128);
            write(control::PLE_WINDOW, 4096);
        }
        if controls.has(SecondaryControls::ENABLE_XSAVES_XRSTORS) {
            current.write(control::XSS_EXITING_BITMAP_FULL, 0);
        }
        if controls.has(SecondaryControls::ENCLS_EXITING) {
            current.write(control::ENCLS_EXITING_BITMAP_FULL, u64::MAX);
        }
        current.write(control::CR0_GUEST_HOST_MASK, !CR0_GUEST);
        current.write(control::CR4_GUEST_HOST_MASK, u64::MAX);
        self.reset_guest(current);
        self.write_cr0(current, Cr0::ET.bits());
        self.write_cr4(current, 0);
        self.write_efer(current, Efer::empty());
        self.written = Written {
            primary: self.machine.controls.primary,
            ..Written::default()
        };
        current.write(guest::DR7, 0);
        current.write(guest::RIP, 0);
        current.write(guest::RSP, 0);
        current.write(guest::RFLAGS, 0);
        current.write(control::EPTP_FULL, 0);
    }

    /// Makes the guest a CPU in real mode, as after INIT but with every
    /// segment at address 0.
    fn reset_guest(&self, current: &Current) {
        const DATA: u64 = 0x93;
        const CODE: u64 = 0x9b;
        const LDT: u64 = 0x82;
        const TSS: u64 = 0x8b;
        // ES, CS, SS, DS, FS, GS, LDTR, TR: their fields are two apart.
        for (number, rights) in (0..).zip([DATA, CODE, DATA, DATA, DATA, DATA, LDT, TSS]) {
            current.write(guest::ES_SELECTOR + 2 * number, 0);
            current.write(guest::ES_LIMIT + 2 * number, 0xffff);
            current.write(guest::ES_ACCESS_RIGHTS + 2 * number, rights);
            current.write(guest::ES_BASE + 2 * number, 0);
        }
        for (field, value) in [
            (guest::GDTR_LIMIT, 0xffff),
            (guest::IDTR_LIMIT, 0xffff),
            (guest::GDTR_BASE, 0),
            (guest::IDTR_BASE, 0),
            (guest::CR3, 0),
            (guest::IA32_DEBUGCTL_FULL, 0),
            (guest::IA32_SYSENTER_CS, 0),
            (guest::IA32_SYSENTER_ESP, 0),
            (guest::IA32_SYSENTER_EIP, 0),
            (guest::LINK_PTR_FULL, u64::MAX),
            (guest::INTERRUPTIBILITY_STATE, 0),
            (guest::ACTIVITY_STATE, 0),
            (guest::PENDING_DBG_EXCEPTIONS, 0),
        ] {
            current.write(field, value);
        }
    }

    /// Sets CR0. What hardware needs set is set, what we need clear is clear; the guest sees
    /// neither, because those bits are not its own.
    pub(crate) fn write_cr0(&mut self, current: &Current, value: u64) {
        let real = value & !CR0_NEVER | self.machine.cr0_must;
        self.cr0 = value;
        current.write(guest::CR0, real);
        current.write(control::CR0_READ_SHADOW, value);
    }

    /// Sets CR4, in the same way. Machine checks are on while the guest runs where the host has them
    /// on: one that comes is the host's, and with the bit clear it would shut the CPU down.
    pub(crate) fn write_cr4(&mut self, current: &Current, value: u64) {
        const HOSTS: u64 = Cr4::VMXE.union(Cr4::MCE).bits();
        let hosts = self.host.cr4 & Cr4::MCE.bits() | self.machine.cr4_must;
        self.cr4 = value;
        current.write(guest::CR4, value & !HOSTS | hosts);
        current.write(control::CR4_READ_SHADOW, value);
    }

    /// Sets EFER, and with it whether the guest is in long mode.
    pub(crate) fn write_efer(&mut self, current: &Current, value: Efer) {
        let long = value.contains(Efer::LMA);
        self.efer = value;
        let machine = &*self.machine;
        let bitmap = machine.bitmap(long).0;
        current.write(guest::IA32_EFER_FULL, value.bits());
        current.write(control::MSR_BITMAPS_ADDR_FULL, bitmap);
        current.write(
            control::VMENTRY_CONTROLS,
            machine.controls.entry_for(long).into(),
        );
    }

    /// CR0 as the guest sees it.
    pub(crate) fn read_cr0(&self, current: &Current) -> u64 {
        current.read(guest::CR0) & CR0_GUEST | self.cr0 & !CR0_GUEST
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
