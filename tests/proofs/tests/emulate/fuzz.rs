//! A bounded run of what the fuzzer runs for longer.
use waterbear_proofs::random::Random;

use crate::chaos;

const SEED: u64 = 0x5eed_0004;

/// What instructions begin with when they have much to be got wrong.
const STARTS: [u8; 24] = [
    0x0f, 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x48, 0x64, 0xff, 0xf7, 0x81, 0xa4, 0xa6, 0xab, 0x6d, 0x6e,
    0x8f, 0xc7, 0xd3, 0xc0, 0xc4, 0x62, 0x36, 0x87,
];

#[test]
fn a_million_random_inputs_break_nothing() {
    println!("seed {SEED:#x}");
    let mut random = Random::new(SEED);
    for _ in 0..1_000_000 {
        let mut input = [0; 32];
        for chunk in input.chunks_mut(8) {
            chunk.copy_from_slice(&random.number().to_le_bytes());
        }
        let starts = random.below(4) as usize;
        for byte in input.iter_mut().skip(2).take(starts) {
            *byte = random.pick(&STARTS);
        }
        let length = if random.percent(5) {
            random.below(32) as usize
        } else {
            32
        };
        chaos::run(&input[..length]);
    }
}
