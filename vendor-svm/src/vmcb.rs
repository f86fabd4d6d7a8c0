//! The virtual machine control block, field by field.
//!
//! Source: AMD APM volume 2, "VMCB Layout" (control area) and "VMCB Layout,
//! State Save Area".
use core::mem::offset_of;

use waterbear_core::arch::{Attributes, Cr4};
use waterbear_core::regs::Switched;

use crate::clean::Clean;
use crate::intercept::{Control0, Debug0, Exceptions, Intercept3, Intercept4, Intercept5};

/// EFER.SVME: the SVM instructions work.
pub const EFER_SVME: u64 = 1 << 12;

/// TLB_CONTROL: leave the TLB alone.
pub const TLB_KEEP: u8 = 0;
/// TLB_CONTROL: forget everything, on this entry.
pub const TLB_FLUSH_ALL: u8 = 1;
/// TLB_CONTROL: forget what has this ASID, on this entry.
pub const TLB_FLUSH_ASID: u8 = 3;

/// NP_ENABLE.
pub const NESTED_PAGING: u64 = 1;

bitflags::bitflags! {
    /// The virtual-interrupt word (offset 0x060).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct VirtualInterrupt: u64 {
        /// V_IRQ: a virtual interrupt is pending.
        const PENDING = 1 << 8;
        /// V_IGN_TPR: it is pending whatever the task priority is.
        const IGNORE_TPR = 1 << 20;
        /// V_INTR_MASKING: the host's IF decides about physical interrupts while the guest runs.
        const MASKING = 1 << 24;
    }

    /// The interrupt-state word (offset 0x068).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct InterruptState: u64 {
        /// The guest is in the shadow of STI or of a load of SS.
        const SHADOW = 1 << 0;
    }
}

/// A segment register.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmcbSegment {
    /// The selector.
    pub selector: u16,
    /// Access rights: descriptor bits 55:52 and 47:40, packed.
    pub attributes: u16,
    /// The limit in bytes.
    pub limit: u32,
    /// The base address.
    pub base: u64,
}

/// The control area.
#[repr(C)]
pub struct Control {
    /// Accesses to control registers that exit.
    pub intercept_control: Control0,
    /// Accesses to debug registers that exit.
    pub intercept_debug: Debug0,
    /// Exceptions that exit.
    pub intercept_exceptions: Exceptions,
    /// Events and instructions that exit.
    pub intercept3: Intercept3,
    /// More instructions that exit.
    pub intercept4: Intercept4,
    /// Still more.
    pub intercept5: Intercept5,
    _reserved_018: [u8; 0x24],
    /// How many cycles apart two PAUSEs of one loop may be.
    pub pause_threshold: u16,
    /// After how many PAUSEs the guest is left.
    pub pause_count: u16,
    /// Physical address of the I/O permission map, three pages.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map, two pages.
    pub msrpm_base: u64,
    /// What the guest's time-stamp counter is ahead of the host's.
    pub tsc_offset: u64,
    /// The address-space identifier; 0 is the host's.
    pub asid: u32,
    /// What to forget of the TLB on entry.
    pub tlb_control: u8,
    _reserved_05d: [u8; 3],
    /// Virtual interrupts.
    pub virtual_interrupt: VirtualInterrupt,
    /// What holds interrupts off.
    pub interrupt_state: InterruptState,
    /// Why the guest was left; see [`exit`](crate::exit).
    pub exit_code: u64,
    /// First word about it.
    pub exit_info1: u64,
    /// Second word about it.
    pub exit_info2: u64,
    /// The event whose delivery the exit cut short.
    pub exit_int_info: u64,
    /// NP_ENABLE and relatives.
    pub nested_control: u64,
    _reserved_098: [u8; 0x10],
    /// The event to deliver on entry.
    pub event_injection: u64,
    /// Physical address of the nested root table.
    pub nested_cr3: u64,
    /// Virtualisation of last-branch records; off.
    pub branch_control: u64,
    /// What has not changed since the last run.
    pub clean: Clean,
    _reserved_0c4: u32,
    /// The next instruction's address, where the CPU saves it.
    pub next_rip: u64,
    /// How many bytes follow.
    pub fetched_count: u8,
    /// The bytes that the CPU fetched for the instruction.
    pub fetched: [u8; 15],
    _reserved_0e0: [u8; 0x320],
}

/// The state save area.
#[repr(C)]
pub struct Save {
    /// ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
    pub segments: [VmcbSegment; 10],
    _reserved_0a0: [u8; 0x2b],
    /// The current privilege level.
    pub cpl: u8,
    _reserved_0cc: [u8; 4],
    /// EFER; SVME must be set.
    pub efer: u64,
    _reserved_0d8: [u8; 0x70],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    _reserved_180: [u8; 0x58],
    /// RSP.
    pub rsp: u64,
    _reserved_1e0: [u8; 0x18],
    /// RAX.
    pub rax: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP: what
    /// VMLOAD and VMSAVE switch.
    pub msrs: [u64; 8],
    /// CR2.
    pub cr2: u64,
    _reserved_248: [u8; 0x20],
    /// The guest's page attribute table, with nested paging.
    pub pat: u64,
    _reserved_270: [u8; 0x990],
}

/// A control block: one page.
#[repr(C)]
pub struct Vmcb {
    /// What the host decides.
    pub control: Control,
    /// What the guest is.
    pub save: Save,
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, intercept_control) == 0x000);
    assert!(offset_of!(Control, intercept_debug) == 0x004);
    assert!(offset_of!(Control, intercept_exceptions) == 0x008);
    assert!(offset_of!(Control, intercept3) == 0x00c);
    assert!(offset_of!(Control, intercept4) == 0x010);
    assert!(offset_of!(Control, intercept5) == 0x014);
    assert!(offset_of!(Control, pause_threshold) == 0x03c);
    assert!(offset_of!(Control, pause_count) == 0x03e);
    assert!(offset_of!(Control, iopm_base) == 0x040);
    assert!(offset_of!(Control, msrpm_base) == 0x048);
    assert!(offset_of!(Control, tsc_offset) == 0x050);
    assert!(offset_of!(Control, asid) == 0x058);
    assert!(offset_of!(Control, tlb_control) == 0x05c);
    assert!(offset_of!(Control, virtual_interrupt) == 0x060);
    assert!(offset_of!(Control, interrupt_state) == 0x068);
    assert!(offset_of!(Control, exit_code) == 0x070);
    assert!(offset_of!(Control, exit_info1) == 0x078);
    assert!(offset_of!(Control, exit_info2) == 0x080);
    assert!(offset_of!(Control, exit_int_info) == 0x088);
    assert!(offset_of!(Control, nested_control) == 0x090);
    assert!(offset_of!(Control, event_injection) == 0x0a8);
    assert!(offset_of!(Control, nested_cr3) == 0x0b0);
    assert!(offset_of!(Control, branch_control) == 0x0b8);
    assert!(offset_of!(Control, clean) == 0x0c0);
    assert!(offset_of!(Control, next_rip) == 0x0c8);
    assert!(offset_of!(Control, fetched_count) == 0x0d0);
    assert!(offset_of!(Control, fetched) == 0x0d1);
    assert!(offset_of!(Save, cpl) == 0x0cb);
    assert!(offset_of!(Save, efer) == 0x0d0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, cr3) == 0x150);
    assert!(offset_of!(Save, cr0) == 0x158);
    assert!(offset_of!(Save, dr7) == 0x160);
    assert!(offset_of!(Save, dr6) == 0x168);
    assert!(offset_of!(Save, rflags) == 0x170);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, msrs) == 0x200);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, pat) == 0x268);
};

impl Save {
    /// Whether the guest executes 64-bit code.
    pub fn long_code(&self) -> bool {
        const LMA: u64 = 1 << 10;
        const CS: usize = 1;
        let long = Attributes::from_bits_retain(self.segments[CS].attributes);
        self.efer & LMA != 0 && long.contains(Attributes::LONG)
    }

    /// Makes the state, which is all zeros, that of a CPU in real mode, as after INIT but with every
    /// segment at address 0 and RIP 0 ("Processor Initialization State").
    pub fn reset(&mut self) {
        const DATA: u8 = 0x93;
        const CODE: u8 = 0x9b;
        const LDT: u8 = 0x82;
        const TSS: u8 = 0x8b;
        const RIGHTS: [u8; 10] = [DATA, CODE, DATA, DATA, DATA, DATA, 0, LDT, 0, TSS];
        for (segment, &rights) in self.segments.iter_mut().zip(&RIGHTS) {
            segment.attributes = rights.into();
            segment.limit = 0xffff;
        }
        self.efer = EFER_SVME;
        // CD and NW, which a reset sets, are kept elsewhere (`cr0`).
        self.cr0 = 0x10;
        self.cr4 = Cr4::MCE.bits();
        self.dr6 = Switched::RESET.dr6;
        self.dr7 = Switched::RESET.dr7;
        self.rflags = 2;
        self.pat = 0x0007_0406_0007_0406;
    }
}
