//! Bytes of a guest: the decoder agrees with another one, and execution keeps its promises.
#![no_main]

#[path = "../../proofs/tests/emulate/agree.rs"]
mod agree;
#[path = "../../proofs/tests/emulate/chaos.rs"]
mod chaos;

libfuzzer_sys::fuzz_target!(|input: &[u8]| chaos::run(input));
