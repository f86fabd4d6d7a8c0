//! The host's state on this CPU: noted in the control structure for the exit to load, and what the
//! exit does not load put back by hand.
//!
//! What no thread of the host changes on a CPU is noted once per load of the control structure.
//! The rest is compared before every entry and written only when it has changed.
//!
//! Source: Intel SDM volume 3, "Host-State Area" and "Loading Host State".
#![expect(unsafe_code, reason = "reading and writing this CPU's registers")]
use core::arch::asm;

use x86::dtables::{DescriptorTablePointer, lgdt, lidt, sgdt, sidt};
use x86::msr::{
    IA32_EFER, IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GSBASE, IA32_SYSENTER_CS, IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP,
};
use x86::vmx::vmcs::host;

use crate::cpu::{read_cr0, read_cr3, read_cr4, read_fs_base, read_msr, write_msr};
use crate::fields::Current;

macro_rules! selector {
    ($instruction:literal) => {{
        let value: u16;
        // SAFETY: reading the register has no effect; this is the kernel.
        unsafe { asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }};
}

/// The selectors that an exit clears, unless the control structure has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Selectors {
    /// DS, ES, FS and GS, from the lowest bits up.
    data: u64,
    ldtr: u16,
}

impl Selectors {
    #[inline(always)]
    fn read() -> Self {
        let of = |value: u16, place: u32| u64::from(value) << (16 * place);
        Self {
            data: of(selector!("mov {0:x}, ds"), 0)
                | of(selector!("mov {0:x}, es"), 1)
                | of(selector!("mov {0:x}, fs"), 2)
                | of(selector!("mov {0:x}, gs"), 3),
            ldtr: selector!("sldt {0:x}"),
        }
    }

    /// DS, ES, FS and GS.
    fn split(self) -> [u16; 4] {
        [0, 16, 32, 48].map(|shift| (self.data >> shift) as u16)
    }

    /// Whether one has to be put back by hand.
    #[inline(always)]
    fn any_by_hand(self) -> bool {
        self.data & 0x0007_0007_0007_0007 != 0 || self.ldtr != 0
    }
}

/// The host's state, as the control structure has it.
#[derive(Default)]
pub struct Host {
    cr0: u64,
    cr3: u64,
    /// CR4.
    pub cr4: u64,
    fs_base: u64,
    selectors: Selectors,
    gdt: DescriptorTablePointer<u64>,
    idt: DescriptorTablePointer<u64>,
    /// The RSP with which the last exit returned; 0 when neither it nor RIP has been written.
    pub rsp: u64,
}

/// What an exit loads as it was when the structure was loaded: the field, and where it is now.
const MSRS: [(u32, u32); 5] = [
    (host::IA32_SYSENTER_CS, IA32_SYSENTER_CS),
    (host::IA32_SYSENTER_ESP, IA32_SYSENTER_ESP),
    (host::IA32_SYSENTER_EIP, IA32_SYSENTER_EIP),
    (host::IA32_EFER_FULL, IA32_EFER),
    // In a kernel that is where the CPU's own data are.
    (host::GS_BASE, IA32_GS_BASE),
];

impl Host {
    /// Notes all of it in a control structure that has just been loaded.
    pub fn load(&mut self, current: &Current) {
        // The structure may have anything of an earlier load. CR0 to FS_BASE, and what is
        // compared from now on.
        *self = Self::default();
        current.clear(host::CR0, 4);
        current.clear(host::ES_SELECTOR, 6);
        // SAFETY: writes to the value.
        unsafe { sgdt(&mut self.gdt) }
        // SAFETY: writes to the value.
        unsafe { sidt(&mut self.idt) }
        let tr = selector!("str {0:x}");
        current.write(host::CS_SELECTOR, selector!("mov {0:x}, cs").into());
        // The privilege bits must be clear.
        let ss = selector!("mov {0:x}, ss") & !7;
        current.write(host::SS_SELECTOR, ss.into());
        current.write(host::TR_SELECTOR, tr.into());
        current.write(host::TR_BASE, tss_base(&self.gdt, tr));
        current.write(host::GDTR_BASE, self.gdt.base as u64);
        current.write(host::IDTR_BASE, self.idt.base as u64);
        for &(field, msr) in &MSRS {
            // SAFETY: every 64-bit CPU has these registers; this is the kernel.
            current.write(field, unsafe { read_msr(msr) });
        }
        self.refresh(current);
    }

    /// Notes what threads of the host change, where it has changed.
    #[inline(always)]
    pub fn refresh(&mut self, current: &Current) {
        let update = |field, old: &mut u64, new| {
            if *old != new {
                *old = new;
                current.write(field, new);
            }
        };
        update(host::CR0, &mut self.cr0, read_cr0());
        update(host::CR3, &mut self.cr3, read_cr3());
        update(host::CR4, &mut self.cr4, read_cr4());
        let fs_base = read_fs_base(self.cr4);
        update(host::FS_BASE, &mut self.fs_base, fs_base);
        let selectors = Selectors::read();
        if selectors != self.selectors {
            self.note_selectors(current, selectors);
        }
    }

    #[cold]
    fn note_selectors(&mut self, current: &Current, selectors: Selectors) {
        self.selectors = selectors;
        const FIELDS: [u32; 4] = [
            host::DS_SELECTOR,
            host::ES_SELECTOR,
            host::FS_SELECTOR,
            host::GS_SELECTOR,
        ];
        for (field, selector) in FIELDS.into_iter().zip(selectors.split()) {
            current.write(
                field,
                if by_hand(selector) {
                    0
                } else {
                    selector.into()
                },
            );
        }
    }

    /// Puts back by hand what an exit does not: interrupts are off.
    #[inline(always)]
    pub fn restore(&self) {
        const CLEARED: u16 = 0xffff;
        if self.gdt.limit != CLEARED {
            // SAFETY: the host's own, which the exit left with another limit.
            unsafe { lgdt(&self.gdt) }
        }
        if self.idt.limit != CLEARED {
            // SAFETY: as above.
            unsafe { lidt(&self.idt) }
        }
        if self.selectors.any_by_hand() {
            self.restore_selectors();
        }
    }

    #[cold]
    fn restore_selectors(&self) {
        let [ds, es, fs, gs] = self.selectors.split();
        let ldtr = self.selectors.ldtr;
        if ldtr != 0 {
            // SAFETY: the host's own.
            unsafe { asm!("lldt {0:x}", in(reg) ldtr, options(nostack, preserves_flags)) }
        }
        if by_hand(ds) {
            // SAFETY: the host's own, from a descriptor table that is in force again.
            unsafe { asm!("mov ds, {0:x}", in(reg) ds, options(nostack, preserves_flags)) }
        }
        if by_hand(es) {
            // SAFETY: as above.
            unsafe { asm!("mov es, {0:x}", in(reg) es, options(nostack, preserves_flags)) }
        }
        if by_hand(fs) {
            // SAFETY: as above; it changes the base, which the next line puts back.
            unsafe { asm!("mov fs, {0:x}", in(reg) fs, options(nostack, preserves_flags)) }
            // SAFETY: the host's own.
            unsafe { write_msr(IA32_FS_BASE, self.fs_base) }
        }
        if by_hand(gs) {
            // SAFETY: every 64-bit CPU has the register; this is the kernel.
            let kernel_gs = unsafe { read_msr(IA32_KERNEL_GSBASE) };
            // An NMI may come between any two instructions, and its handler looks at the base to
            // tell whose it is: so the selector is loaded while the user's base is in force.
            // SAFETY: the host's own selector and bases, in the end.
            unsafe {
                asm!("swapgs", "mov gs, {0:x}", "swapgs", in(reg) gs, options(nostack, preserves_flags));
            }
            // SAFETY: the host's own.
            unsafe { write_msr(IA32_KERNEL_GSBASE, kernel_gs) }
        }
    }
}

/// Whether an exit cannot load the selector: those that it loads have no privilege bits and are
/// not in the local table.
fn by_hand(selector: u16) -> bool {
    selector & 7 != 0
}

/// The base address in the descriptor of the task register.
fn tss_base(gdt: &DescriptorTablePointer<u64>, tr: u16) -> u64 {
    let entry = gdt.base.wrapping_add(usize::from(tr / 8));
    // SAFETY: the CPU loaded the task register from this descriptor.
    let low = unsafe { entry.read_unaligned() };
    // SAFETY: a system descriptor has two words.
    let high = unsafe { entry.wrapping_add(1).read_unaligned() };
    (low >> 16 & 0xff_ffff) | (low >> 56 & 0xff) << 24 | (high & 0xffff_ffff) << 32
}
