//! The virtual machine control block, field by field.
//!
//! Source: AMD APM volume 2, "VMCB Layout" (control area) and "VMCB Layout,
//! State Save Area".
use core::mem::offset_of;

/// EFER.SVME: the SVM instructions work.
pub const EFER_SVME: u64 = 1 << 12;

bitflags::bitflags! {
    /// Intercepts of the third control word (offset 0x00c).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercept3: u32 {
        /// A physical interrupt.
        const INTR = 1 << 0;
        /// A physical NMI.
        const NMI = 1 << 1;
        /// A physical SMI.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// CPUID.
        const CPUID = 1 << 18;
        /// INVD.
        const INVD = 1 << 22;
        /// HLT.
        const HLT = 1 << 24;
        /// Ports, as the I/O permission map says.
        const IOIO = 1 << 27;
        /// MSRs, as the MSR permission map says.
        const MSR = 1 << 28;
        /// A task switch.
        const TASK_SWITCH = 1 << 29;
        /// Shutdown.
        const SHUTDOWN = 1 << 31;
    }

    /// Intercepts of the fourth control word (offset 0x010).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercept4: u32 {
        /// VMRUN; must be set.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// WBINVD.
        const WBINVD = 1 << 9;
        /// MONITOR.
        const MONITOR = 1 << 10;
        /// MWAIT.
        const MWAIT = 1 << 11;
        /// XSETBV.
        const XSETBV = 1 << 13;
    }
}

/// TLB_CONTROL: leave the TLB alone.
pub const TLB_KEEP: u8 = 0;
/// TLB_CONTROL: forget everything, on this entry.
pub const TLB_FLUSH_ALL: u8 = 1;
/// The virtual-interrupt word: the host's IF decides about physical
/// interrupts while the guest runs (V_INTR_MASKING).
pub const HOST_INTERRUPT_FLAG: u64 = 1 << 24;
/// NP_ENABLE.
pub const NESTED_PAGING: u64 = 1;

/// Exit codes that are handled ("SVM Intercept Codes").
pub mod code {
    /// A physical interrupt.
    pub const INTR: u64 = 0x60;
    /// A physical NMI.
    pub const NMI: u64 = 0x61;
    /// HLT.
    pub const HLT: u64 = 0x78;
    /// A port.
    pub const IOIO: u64 = 0x7b;
    /// Shutdown.
    pub const SHUTDOWN: u64 = 0x7f;
    /// A nested page fault.
    pub const NPF: u64 = 0x400;
    /// The guest state is not valid.
    pub const INVALID: u64 = u64::MAX;
}

/// A segment register.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
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
    intercepts: [u32; 3],
    /// Third intercept word.
    pub intercept3: u32,
    /// Fourth intercept word.
    pub intercept4: u32,
    intercept5: u32,
    _reserved_018: [u8; 0x28],
    /// Physical address of the I/O permission map, three pages.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map, two pages.
    pub msrpm_base: u64,
    tsc_offset: u64,
    /// The address-space identifier; 0 is the host's.
    pub asid: u32,
    /// What to forget of the TLB on entry.
    pub tlb_control: u8,
    _reserved_05d: [u8; 3],
    /// Virtual interrupts.
    pub virtual_interrupt: u64,
    interrupt_shadow: u64,
    /// Why the guest was left; see [`code`].
    pub exit_code: u64,
    /// First word about it.
    pub exit_info1: u64,
    /// Second word about it.
    pub exit_info2: u64,
    exit_int_info: u64,
    /// NP_ENABLE and relatives.
    pub nested_control: u64,
    _reserved_098: [u8; 0x10],
    event_injection: u64,
    /// Physical address of the nested root table.
    pub nested_cr3: u64,
    _reserved_0b8: [u8; 0x10],
    /// The next instruction's address, where the CPU saves it.
    pub next_rip: u64,
    _reserved_0d0: [u8; 0x330],
}

/// The state save area.
#[repr(C)]
pub struct Save {
    /// ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
    pub segments: [Segment; 10],
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
    _reserved_200: [u8; 0x68],
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
    assert!(offset_of!(Control, intercept3) == 0x00c);
    assert!(offset_of!(Control, iopm_base) == 0x040);
    assert!(offset_of!(Control, asid) == 0x058);
    assert!(offset_of!(Control, tlb_control) == 0x05c);
    assert!(offset_of!(Control, virtual_interrupt) == 0x060);
    assert!(offset_of!(Control, exit_code) == 0x070);
    assert!(offset_of!(Control, nested_control) == 0x090);
    assert!(offset_of!(Control, nested_cr3) == 0x0b0);
    assert!(offset_of!(Control, next_rip) == 0x0c8);
    assert!(offset_of!(Save, cpl) == 0x0cb);
    assert!(offset_of!(Save, efer) == 0x0d0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, pat) == 0x268);
};

impl Save {
    /// Makes the state that of a CPU in real mode, as after INIT but with every
    /// segment at address 0 ("Processor Initialization State").
    pub fn reset(&mut self) {
        const DATA: u16 = 0x93;
        const CODE: u16 = 0x9b;
        const LDT: u16 = 0x82;
        const TSS: u16 = 0x8b;
        let real = |attributes| Segment {
            attributes,
            limit: 0xffff,
            ..Segment::default()
        };
        self.segments = [DATA, CODE, DATA, DATA, DATA, DATA, 0, LDT, 0, TSS].map(real);
        self.cpl = 0;
        self.efer = EFER_SVME;
        self.cr0 = 0x6000_0010;
        self.cr3 = 0;
        self.cr4 = 0;
        self.dr6 = 0xffff_0ff0;
        self.dr7 = 0x400;
        self.pat = 0x0007_0406_0007_0406;
    }
}
