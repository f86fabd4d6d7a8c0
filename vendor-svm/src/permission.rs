//! Which MSRs and ports a guest reaches by itself.
//!
//! An MSR that VMRUN and VMLOAD switch is the guest's own while the guest runs, so its accesses
//! need not exit; every other MSR, and every port, is the core's. Source: AMD APM volume 2, "MSR
//! Intercepts" and "I/O Intercepts".

/// The size of the MSR permission map in bytes.
pub const MSR_MAP: usize = 2 * 4096;

/// MSRs that the guest reads and writes without an exit.
pub const PASSED: [u32; 10] = [
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
    0xc000_0102, // KERNEL_GS_BASE
];

/// Where the map has an MSR: the byte, and in it the bit for reads; the next one is for writes.
/// MSRs that the map has no place for always exit.
pub const fn place(msr: u32) -> Option<(usize, u32)> {
    let base = match msr >> 13 {
        0 => 0,
        0x6_0000 => 0x800,
        0x6_0008 => 0x1000,
        _ => return None,
    };
    let low = msr & 0x1fff;
    Some((base + (low / 4) as usize, low % 4 * 2))
}

/// Opens the map, in which every access exits, for [`PASSED`].
pub fn open(map: &mut [u8]) {
    for &msr in &PASSED {
        if let Some((byte, bit)) = place(msr)
            && let Some(byte) = map.get_mut(byte)
        {
            *byte &= !(3 << bit);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_passed_msrs_are_open() {
        let mut map = [0xff; MSR_MAP];
        open(&mut map);
        let open = |msr| {
            let (byte, bit) = place(msr).unwrap();
            map[byte] >> bit & 3 == 0
        };
        for msr in PASSED {
            assert!(open(msr), "{msr:#x}");
        }
        // Two bits each, and no other bit is clear.
        let clear: u32 = map.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(clear as usize, PASSED.len() * 2);
        // PAT, EFER, TSC_AUX, VM_HSAVE_PA, SPEC_CTRL.
        for msr in [0x277, 0xc000_0080, 0xc000_0103, 0xc001_0117, 0x48] {
            assert!(!open(msr), "{msr:#x}");
        }
    }

    #[test]
    fn each_range_of_msrs_has_its_quarter_of_the_map() {
        assert_eq!(place(0), Some((0, 0)));
        assert_eq!(place(0x1fff), Some((0x7ff, 6)));
        assert_eq!(place(0xc000_0000), Some((0x800, 0)));
        assert_eq!(place(0xc001_1fff), Some((0x17ff, 6)));
        assert_eq!(place(0x2000), None);
        assert_eq!(place(0x4000_0000), None);
        assert_eq!(place(u32::MAX), None);
    }
}
