//! The fields of the control structure that is current on this CPU.
//!
//! Source: Intel SDM volume 3, "Virtual Machine Control Structures".
#![expect(unsafe_code, reason = "VMREAD and VMWRITE")]
use core::arch::asm;

use crate::exit::Fields;

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
    #[inline(always)]
    pub fn read(&self, field: u32) -> u64 {
        let mut value = 0_u64;
        // SAFETY: by the invariant; a read that fails leaves the register alone.
        unsafe {
            asm!(
                "vmread {value}, {field}",
                value = inout(reg) value,
                field = in(reg) u64::from(field),
                options(nomem, nostack),
            );
        }
        value
    }

    /// Writes fields, each with its value.
    #[inline(never)]
    pub fn write_all(&self, writes: &[(u32, u64)]) {
        for &(field, value) in writes {
            self.write(field, value);
        }
    }

    /// Writes zeros to `count` fields from `first` on. Those of one kind are two apart; one that the
    /// CPU does not have is passed over.
    #[inline(never)]
    pub fn clear(&self, first: u32, count: u32) {
        for number in 0..count {
            self.write(first + 2 * number, 0);
        }
    }

    /// Writes a field. A field or a value that the CPU does not take is left
    /// alone, and the next entry fails.
    #[inline(always)]
    pub fn write(&self, field: u32, value: u64) {
        // SAFETY: by the invariant; a wrong value makes the entry fail.
        unsafe {
            asm!(
                "vmwrite {field}, {value}",
                value = in(reg) value,
                field = in(reg) u64::from(field),
                options(nomem, nostack),
            );
        }
    }
}

impl Fields for Current {
    #[inline(always)]
    fn read(&self, field: u32) -> u64 {
        Current::read(self, field)
    }
}
