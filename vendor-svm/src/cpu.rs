//! Reading and writing this CPU's registers.
#![expect(unsafe_code, reason = "privileged instructions")]
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use crate::detect::{Facts, WORDS};

/// EFER, "Extended Feature Enable Register".
pub const EFER: u32 = 0xc000_0080;
/// VM_CR, "Virtual Machine Control".
pub const VM_CR: u32 = 0xc001_0114;
/// VM_HSAVE_PA: where VMRUN keeps the host's state.
pub const VM_HSAVE_PA: u32 = 0xc001_0117;
/// TSC_AUX: what RDTSCP and RDPID return beside the time.
pub const TSC_AUX: u32 = 0xc000_0103;
/// IA32_XSS: the supervisor's parts of the extended state.
pub const XSS: u32 = 0xda0;
/// PRED_CMD: writing 1 is an indirect-branch prediction barrier.
pub const PRED_CMD: u32 = 0x49;

/// Reads a model-specific register.
///
/// # Safety
///
/// The CPU has the register, and this is the kernel.
pub unsafe fn read_msr(msr: u32) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { x86::msr::rdmsr(msr) }
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The CPU has the register, this is the kernel, and the value does what the
/// caller wants.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe { x86::msr::wrmsr(msr, value) }
}

macro_rules! registers {
    ($($(#[$doc:meta])* $read:ident, $write:ident = $register:literal,)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            ///
            /// This is the kernel.
            pub unsafe fn $read() -> u64 {
                let value;
                // SAFETY: reads a register.
                unsafe {
                    asm!(
                        concat!("mov {}, ", $register),
                        out(reg) value,
                        options(nomem, nostack, preserves_flags),
                    );
                }
                value
            }

            $(#[$doc])*
            ///
            /// # Safety
            ///
            /// This is the kernel, the register takes the value, and it does what the caller
            /// wants.
            pub unsafe fn $write(value: u64) {
                // SAFETY: as the caller promises.
                unsafe {
                    asm!(
                        concat!("mov ", $register, ", {}"),
                        in(reg) value,
                        options(nostack, preserves_flags),
                    );
                }
            }
        )*
    };
}

registers! {
    /// CR0.
    read_cr0, write_cr0 = "cr0",
    /// CR2.
    read_cr2, write_cr2 = "cr2",
    /// CR3.
    read_cr3, write_cr3 = "cr3",
    /// CR4.
    read_cr4, write_cr4 = "cr4",
    /// CR8.
    read_cr8, write_cr8 = "cr8",
    /// DR0.
    read_dr0, write_dr0 = "dr0",
    /// DR1.
    read_dr1, write_dr1 = "dr1",
    /// DR2.
    read_dr2, write_dr2 = "dr2",
    /// DR3.
    read_dr3, write_dr3 = "dr3",
    /// DR6.
    read_dr6, write_dr6 = "dr6",
    /// DR7.
    read_dr7, write_dr7 = "dr7",
}

/// DR0 to DR3.
///
/// # Safety
///
/// This is the kernel.
pub unsafe fn read_breakpoints() -> [u64; 4] {
    // SAFETY: as the caller promises, here and below.
    let (first, second) = (unsafe { read_dr0() }, unsafe { read_dr1() });
    // SAFETY: as above.
    let (third, fourth) = (unsafe { read_dr2() }, unsafe { read_dr3() });
    [first, second, third, fourth]
}

/// Sets DR0 to DR3.
///
/// # Safety
///
/// This is the kernel, and DR7 uses none of them.
pub unsafe fn write_breakpoints(to: [u64; 4]) {
    // SAFETY: as the caller promises, here and below.
    unsafe { write_dr0(to[0]) }
    // SAFETY: as above.
    unsafe { write_dr1(to[1]) }
    // SAFETY: as above.
    unsafe { write_dr2(to[2]) }
    // SAFETY: as above.
    unsafe { write_dr3(to[3]) }
}

/// XCR0.
///
/// # Safety
///
/// CR4.OSXSAVE is set.
pub unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets XCR0.
///
/// # Safety
///
/// This is the kernel, CR4.OSXSAVE is set, and the CPU takes the value.
pub unsafe fn write_xcr0(value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// Hands a machine check that ended a guest's run to the host's handler.
///
/// # Safety
///
/// This is the kernel, and its handler returns to where a machine check was.
pub unsafe fn machine_check() {
    // SAFETY: as the caller promises.
    unsafe { asm!("int 18") }
}

/// What this CPU says about itself.
///
/// # Safety
///
/// This is the kernel.
pub unsafe fn facts() -> Facts {
    let mut facts = Facts::default();
    for (word, &(leaf, index, register)) in facts.words.iter_mut().zip(&WORDS) {
        // The first leaf of either half says which is the last.
        if __cpuid(leaf & 0x8000_0000).eax >= leaf {
            let answer = __cpuid_count(leaf, index.into());
            let answer = [answer.eax, answer.ebx, answer.ecx, answer.edx];
            *word = answer.get(usize::from(register)).copied().unwrap_or(0);
        }
    }
    if facts.has_svm() {
        // SAFETY: a CPU with SVM has the register.
        facts.vm_cr = unsafe { read_msr(VM_CR) };
    }
    facts
}
