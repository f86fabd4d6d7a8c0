//! The decoder agrees with another one on lengths and operands.
use waterbear_core::emulate::{CodeSize, DecodeError, MAX_LENGTH, decode};
use waterbear_proofs::random::Random;

use crate::agree::{SIZES, check};

const SEED: u64 = 0x5eed_0001;

/// How many complaints are shown before a test gives up.
fn report(complaints: Vec<String>) {
    let shown = complaints
        .iter()
        .take(20)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n\n");
    assert!(
        complaints.is_empty(),
        "{} complaints\n{shown}",
        complaints.len()
    );
}

/// The opcode's bytes before ModRM, for each map.
const ESCAPES: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];

/// Prefixes that change what follows.
const PREFIXES: [&[u8]; 12] = [
    &[],
    &[0x66],
    &[0x67],
    &[0xf2],
    &[0xf3],
    &[0x66, 0xf2],
    &[0x66, 0xf3],
    &[0x48],
    &[0x66, 0x48],
    &[0x65, 0x67, 0x4f],
    &[0x48, 0x66],
    &[0x64, 0x3e, 0x45],
];

#[test]
fn every_opcode_with_every_modrm_has_the_length_and_operands_that_another_decoder_sees() {
    let mut random = Random::new(SEED);
    let mut complaints = Vec::new();
    for size in SIZES {
        for escape in ESCAPES {
            for prefix in PREFIXES {
                for number in 0..0x1_0000_u32 {
                    let mut bytes = [prefix, escape, &[(number >> 8) as u8, number as u8]].concat();
                    while bytes.len() < 24 {
                        bytes.push(random.number() as u8);
                    }
                    complaints.extend(check(&bytes, size).err());
                }
            }
        }
    }
    report(complaints);
}

#[test]
fn random_bytes_have_the_length_and_operands_that_another_decoder_sees() {
    println!("seed {SEED:#x}");
    let mut random = Random::new(SEED);
    let mut complaints = Vec::new();
    for _ in 0..2_000_000 {
        let mut bytes = [0; 24];
        for byte in &mut bytes {
            *byte = random.number() as u8;
        }
        // Prefixes are rarer in random bytes than in the worst programs.
        for byte in bytes.iter_mut().take(random.below(4) as usize) {
            *byte = random.pick(&[
                0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x64, 0x2e, 0x0f, 0x40, 0x48, 0xc4, 0xc5, 0x62, 0x8f,
            ]);
        }
        let size = random.pick(&SIZES);
        let length = if random.percent(10) {
            random.below(16) as usize
        } else {
            24
        };
        complaints.extend(check(&bytes[..length], size).err());
    }
    report(complaints);
}

#[test]
fn an_instruction_of_more_than_fifteen_bytes_is_too_long() {
    let bytes = [[0x66; MAX_LENGTH - 1].as_slice(), &[0x90, 0x90]].concat();
    for size in SIZES {
        assert_eq!(decode(&bytes, size).map(|i| i.length), Ok(15));
        assert_eq!(decode(&[0x66; 20], size), Err(DecodeError::TooLong));
        assert_eq!(decode(&[0x66; 15], size), Err(DecodeError::TooLong));
        assert_eq!(decode(&[0x66; 14], size), Err(DecodeError::More));
        assert_eq!(decode(&[], size), Err(DecodeError::More));
    }
}

#[test]
fn instructions_that_are_only_skipped_have_their_length() {
    let cases: [(&[u8], u8); 24] = [
        (&[0x0f, 0xa2], 2),       // CPUID
        (&[0x0f, 0x32], 2),       // RDMSR
        (&[0x0f, 0x30], 2),       // WRMSR
        (&[0xf4], 1),             // HLT
        (&[0x0f, 0x09], 2),       // WBINVD
        (&[0xf3, 0x0f, 0x09], 3), // WBNOINVD
        (&[0x0f, 0x08], 2),       // INVD
        (&[0x0f, 0x01, 0xd9], 3), // VMMCALL
        (&[0x0f, 0x01, 0xc1], 3), // VMCALL
        (&[0x0f, 0x01, 0xd1], 3), // XSETBV
        (&[0x0f, 0x01, 0xf9], 3), // RDTSCP
        (&[0x0f, 0x31], 2),       // RDTSC
        (&[0x0f, 0x33], 2),       // RDPMC
        (&[0x0f, 0x22, 0xd8], 3), // MOV CR3, rAX
        (&[0x0f, 0x20, 0x00], 3), // MOV rAX, CR0 whatever the mode bits say
        (&[0x0f, 0x23, 0x45], 3), // MOV DR0, rBP
        (&[0x0f, 0x06], 2),       // CLTS
        (&[0x0f, 0x01, 0xf0], 3), // LMSW AX
        (&[0xcd, 0x80], 2),       // INT 80h
        (&[0xcc], 1),             // INT3
        (&[0xf3, 0x90], 2),       // PAUSE
        (&[0x0f, 0x01, 0xc8], 3), // MONITOR
        (&[0xe4, 0x80], 2),       // IN AL, 80h
        (&[0xee], 1),             // OUT DX, AL
    ];
    for (bytes, length) in cases {
        let mut more = bytes.to_vec();
        more.extend([0x90; 12]);
        for size in SIZES {
            assert_eq!(
                decode(&more, size).map(|i| i.length),
                Ok(length),
                "{bytes:02x?}"
            );
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end], size), Err(DecodeError::More));
            }
        }
    }
    // A move of a control register names it and the general register.
    let instruction = decode(&[0x44, 0x0f, 0x22, 0xc0], CodeSize::Bits64).unwrap();
    assert_eq!(
        (instruction.reg, instruction.rm, instruction.operand_size),
        (8, 0, 8)
    );
}
