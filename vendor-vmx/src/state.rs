//! The host's and the guest's state in the current control structure.
//!
//! Source: Intel SDM volume 3, "Guest-State Area" and "Host-State Area".
#![expect(unsafe_code, reason = "reading this CPU's registers, and VMWRITE")]
use core::arch::asm;

use x86::bits64::vmx::{vmread, vmwrite};
use x86::dtables::{DescriptorTablePointer, sgdt, sidt};
use x86::msr::{
    IA32_EFER, IA32_FS_BASE, IA32_GS_BASE, IA32_SYSENTER_CS, IA32_SYSENTER_EIP, IA32_SYSENTER_ESP,
    rdmsr,
};
use x86::vmx::vmcs::{guest, host};

/// Access to the current control structure of this CPU.
///
/// # Invariants
///
/// While a value exists a control structure is current on this CPU.
pub struct Current(());

impl Current {
    /// # Safety
    ///
    /// VMX operation is on and a control structure is current, for as long as
    /// the result is used.
    pub unsafe fn new() -> Self {
        Self(())
    }

    /// Reads a field; one that the CPU does not have reads as 0.
    pub fn read(&self, field: u32) -> u64 {
        // SAFETY: by the invariant.
        unsafe { vmread(field) }.unwrap_or(0)
    }

    /// Writes a field. A field or a value that the CPU does not take is left
    /// alone, and the next entry fails.
    pub fn write(&self, field: u32, value: u64) {
        // SAFETY: by the invariant; a wrong value makes the entry fail.
        let _ = unsafe { vmwrite(field, value) };
    }

    /// Notes what the host is on this CPU, but for RSP and RIP.
    pub fn save_host(&self) {
        macro_rules! register {
            ($name:literal) => {{
                let value: u64;
                // SAFETY: reading the register has no effect; this is the
                // kernel.
                unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) }
                value
            }};
        }
        macro_rules! selector {
            ($instruction:literal) => {{
                let value: u16;
                // SAFETY: as above.
                unsafe { asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags)) }
                u64::from(value)
            }};
        }
        // SAFETY: every 64-bit CPU has these registers; this is the kernel.
        let msr = |number| unsafe { rdmsr(number) };
        let mut gdt: DescriptorTablePointer<u64> = DescriptorTablePointer::default();
        // SAFETY: writes to the value.
        unsafe { sgdt(&mut gdt) }
        let mut idt: DescriptorTablePointer<u64> = DescriptorTablePointer::default();
        // SAFETY: writes to the value.
        unsafe { sidt(&mut idt) }
        let tr = selector!("str {0:x}");
        self.write(host::CR0, register!("cr0"));
        self.write(host::CR3, register!("cr3"));
        self.write(host::CR4, register!("cr4"));
        self.write(host::CS_SELECTOR, selector!("mov {0:x}, cs"));
        // Exits load these with the privilege bits and the table bit clear.
        self.write(host::SS_SELECTOR, selector!("mov {0:x}, ss") & !7);
        self.write(host::DS_SELECTOR, 0);
        self.write(host::ES_SELECTOR, 0);
        self.write(host::FS_SELECTOR, 0);
        self.write(host::GS_SELECTOR, 0);
        self.write(host::TR_SELECTOR, tr);
        self.write(host::FS_BASE, msr(IA32_FS_BASE));
        self.write(host::GS_BASE, msr(IA32_GS_BASE));
        self.write(host::TR_BASE, tss_base(&gdt, tr));
        self.write(host::GDTR_BASE, gdt.base as u64);
        self.write(host::IDTR_BASE, idt.base as u64);
        self.write(host::IA32_SYSENTER_CS, msr(IA32_SYSENTER_CS));
        self.write(host::IA32_SYSENTER_ESP, msr(IA32_SYSENTER_ESP));
        self.write(host::IA32_SYSENTER_EIP, msr(IA32_SYSENTER_EIP));
        self.write(host::IA32_EFER_FULL, msr(IA32_EFER));
    }

    /// Makes the guest a CPU in real mode, as after INIT but with every
    /// segment at address 0.
    pub fn reset_guest(&self, cr0_must: u64, cr4_must: u64) {
        const DATA: u64 = 0x93;
        const CODE: u64 = 0x9b;
        const LDT: u64 = 0x82;
        const TSS: u64 = 0x8b;
        // ES, CS, SS, DS, FS, GS, LDTR, TR: their fields are two apart.
        for (number, rights) in (0..).zip([DATA, CODE, DATA, DATA, DATA, DATA, LDT, TSS]) {
            self.write(guest::ES_SELECTOR + 2 * number, 0);
            self.write(guest::ES_LIMIT + 2 * number, 0xffff);
            self.write(guest::ES_ACCESS_RIGHTS + 2 * number, rights);
            self.write(guest::ES_BASE + 2 * number, 0);
        }
        self.write(guest::GDTR_LIMIT, 0xffff);
        self.write(guest::IDTR_LIMIT, 0xffff);
        self.write(guest::GDTR_BASE, 0);
        self.write(guest::IDTR_BASE, 0);
        self.write(guest::CR0, 0x10 | cr0_must);
        self.write(guest::CR3, 0);
        self.write(guest::CR4, cr4_must);
        self.write(guest::DR7, 0x400);
        self.write(guest::IA32_EFER_FULL, 0);
        self.write(guest::LINK_PTR_FULL, u64::MAX);
        self.write(guest::INTERRUPTIBILITY_STATE, 0);
        self.write(guest::ACTIVITY_STATE, 0);
    }
}

/// The base address in the descriptor of the task register.
fn tss_base(gdt: &DescriptorTablePointer<u64>, tr: u64) -> u64 {
    let entry = gdt.base.wrapping_add(tr as usize / 8);
    // SAFETY: the CPU loaded the task register from this descriptor.
    let low = unsafe { entry.read_unaligned() };
    // SAFETY: a system descriptor has two words.
    let high = unsafe { entry.wrapping_add(1).read_unaligned() };
    (low >> 16 & 0xff_ffff) | (low >> 56 & 0xff) << 24 | (high & 0xffff_ffff) << 32
}
