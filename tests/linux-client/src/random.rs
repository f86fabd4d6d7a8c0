//! Numbers that look random, with a seed that is printed.
use std::fs::File;
use std::io::Read;

/// A sequence (xorshift64*).
pub struct Random(u64);

impl Random {
    /// A sequence of its own for whoever asks. The seed is printed, so that a failure can be
    /// repeated: `waterbear_seed=N` on the kernel's command line sets it.
    pub fn new(who: &str) -> Self {
        let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let said = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("waterbear_seed="));
        let seed = said.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let mut bytes = [0; 4];
            let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
            read.map_or(1, |()| u32::from_le_bytes(bytes).into())
        });
        println!("{who}: waterbear_seed={seed}");
        Self::with(seed)
    }

    /// The sequence of a seed.
    pub fn with(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below a limit, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
