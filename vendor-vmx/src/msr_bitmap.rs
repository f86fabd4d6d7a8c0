//! Which model-specific registers a guest reaches without an exit.
//!
//! Only those whose guest value is in the CPU while the guest runs: what the control structure
//! switches, and KERNEL_GS_BASE while the guest is in long mode, because that register is switched
//! by hand only then ([`crate::world`]). STAR, LSTAR, CSTAR, SFMASK and TSC_AUX are in the CPU too
//! while a guest can use them, but a guest writes them once: their exits tell what they are, which
//! is cheaper than to read them after every exit. Registers outside both ranges always exit.
//!
//! Source: Intel SDM volume 3, "MSR-Bitmap Address".
use x86::msr::{
    IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GSBASE, IA32_SYSENTER_CS, IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP, IA32_TIME_STAMP_COUNTER,
};

/// In bits from the beginning: where the half for writes begins, and in either half the part for
/// registers from C000_0000 on.
const WRITES: usize = 0x4000;
const HIGH: usize = 0x2000;

/// What a guest reads and writes; the last only in long mode.
const PASSED: [u32; 6] = [
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GSBASE,
];

/// Makes the page a bitmap for guests in long mode or not.
pub fn fill(bits: &mut [u8], long: bool) {
    bits.fill(0xff);
    for &msr in PASSED.iter().take(if long { 6 } else { 5 }) {
        clear(bits, msr, 0);
        clear(bits, msr, WRITES);
    }
    // The offset counts for RDMSR too.
    clear(bits, IA32_TIME_STAMP_COUNTER, 0);
}

fn clear(bits: &mut [u8], msr: u32, part: usize) {
    let at = part + HIGH * (msr >> 31) as usize + (msr & 0x1fff) as usize;
    if let Some(byte) = bits.get_mut(at / 8) {
        *byte &= !(1 << (at % 8));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bitmap(long: bool) -> [u8; 4096] {
        let mut bits = [0; 4096];
        fill(&mut bits, long);
        bits
    }

    /// Whether an access exits.
    fn exits(bits: &[u8; 4096], at: usize) -> bool {
        bits[at / 8] >> (at % 8) & 1 != 0
    }

    #[test]
    fn registers_that_are_switched_do_not_exit_and_all_others_do() {
        let bits = bitmap(true);
        let zeros: u32 = bits.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(zeros, 2 * 6 + 1);
        assert!(!exits(&bits, 0x174) && !exits(&bits, 0x4000 + 0x174));
        assert!(!exits(&bits, 0x2000 + 0x100) && !exits(&bits, 0x6000 + 0x100));
        assert!(!exits(&bits, 0x10) && exits(&bits, 0x4000 + 0x10));
        assert!(!exits(&bits, 0x2000 + 0x102));
        assert!(exits(&bitmap(false), 0x2000 + 0x102));
        assert!(exits(&bitmap(false), 0x6000 + 0x102));
    }
}
