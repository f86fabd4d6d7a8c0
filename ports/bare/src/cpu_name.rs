//! What the CPU calls itself.
//!
//! Source: AMD APM volume 3, "Processor Name String"; Intel SDM volume 2, "CPUID".
use core::arch::x86_64::__cpuid;
use core::fmt;

/// The processor's name, 48 bytes padded with zeros or spaces.
pub struct CpuName([u8; 48]);

impl CpuName {
    /// Asks the CPU; the name is empty where it has none.
    pub fn read() -> Self {
        const LEAVES: [u32; 3] = [0x8000_0002, 0x8000_0003, 0x8000_0004];
        let mut name = [0; 48];
        if __cpuid(0x8000_0000).eax >= LEAVES[2] {
            for (leaf, part) in LEAVES.into_iter().zip(name.chunks_exact_mut(16)) {
                let leaf = __cpuid(leaf);
                let words = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx];
                for (word, bytes) in words.into_iter().zip(part.chunks_exact_mut(4)) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        Self(name)
    }
}

impl fmt::Display for CpuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = core::str::from_utf8(text).unwrap_or_default().trim();
        if text.is_empty() {
            return f.write_str("a CPU without a name");
        }
        f.write_str(text)
    }
}
