//! What the CPUID of machines says.
use waterbear_core::run::cpuid::{CpuidEntry, supported};

/// The machine's CPUID: an AMD processor with nearly everything that the core knows.
pub fn amd(function: u32, index: u32) -> [u32; 4] {
    let name = |b: &[u8; 4]| u32::from_le_bytes(*b);
    let strange = u32::MAX;
    match (function, index) {
        (0, _) => [0x10, name(b"Auth"), name(b"cAMD"), name(b"enti")],
        (1, _) => [0x0080_0f12, 0x0702_0800, strange, strange],
        (7, 0) => [0, strange, strange, strange],
        (0xd, 0) => [0x207, 0x988, 0x988, 0],
        (0xd, 1) => [0xf, 0x988, 0x1800, 0],
        (0xd, 2) => [0x100, 0x240, 0, 0],
        (0xd, 9) => [8, 0x980, 0, 0],
        (0x8000_0000, _) => [0x8000_001f, name(b"Auth"), name(b"cAMD"), name(b"enti")],
        (0x8000_0001, _) => [0x0080_0f12, 0x2000_0000, strange, strange],
        (0x8000_0002..=0x8000_0004, _) => [0x20202020; 4],
        (0x8000_0007, _) => [0, 0x1b, 0, 0x6799],
        (0x8000_0008, _) => [0x3030, 0x1007, 0x4007, 0],
        (0x8000_000a, _) => [1, 0x8000, 0, 0x119b9c],
        (0x8000_001d, 0..4) => [0x121, 0x01c0_003f, 0x3f, 0],
        (0x8000_001e, _) => [7, 0x103, 0, 0],
        _ => [0; 4],
    }
}

/// The same as an Intel processor with AVX-512.
pub fn intel(function: u32, index: u32) -> [u32; 4] {
    let name = |b: &[u8; 4]| u32::from_le_bytes(*b);
    match (function, index) {
        (0, _) => [0x1f, name(b"Genu"), name(b"ntel"), name(b"ineI")],
        (4, 0..4) => [0x121, 0x01c0_003f, 0x3f, 0],
        (7, 0) => [1, u32::MAX, u32::MAX, u32::MAX],
        (7, 1) => [u32::MAX; 4],
        (0xb, _) => [1, 2, 0x100, 7],
        (0xd, 0) => [0x2ff, 0xa88, 0xa88, 0],
        // Larger than it is, so that what is aligned behind it has a gap.
        (0xd, 5) => [0x48, 0x440, 0, 0],
        (0xd, 6) => [0x200, 0x480, 0, 0],
        (0xd, 7) => [0x400, 0x680, 2, 0],
        (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
        (0x8000_0007, _) => [0, 0, 0, 0x100],
        (0x8000_0009.., _) => [0; 4],
        _ => amd(function, index),
    }
}

/// What a guest on this machine can have.
pub fn table(host: fn(u32, u32) -> [u32; 4]) -> Vec<CpuidEntry> {
    let mut entries = Vec::new();
    supported(&host, &mut |entry| {
        entries.push(entry);
        Ok(())
    })
    .expect("it emits without errors");
    entries
}
