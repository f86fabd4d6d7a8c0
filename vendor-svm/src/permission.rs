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
    for msr in PASSED {
        if let Some((byte, bit)) = place(msr)
            && let Some(byte) = map.get_mut(byte)
        {
            *byte &= !(3 << bit);
        }
    }
}
