//! What the proofs share. The proofs themselves are in `tests/`.

pub mod fake_vendor;
pub mod guest;
