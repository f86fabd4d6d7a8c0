//! What holds events off, as a control structure has it.
//!
//! Source: Intel SDM volume 3, "Guest Non-Register State".
use waterbear_core::arch::Shadow;

const BY_STI: u64 = 1 << 0;
const BY_MOV_SS: u64 = 1 << 1;
/// An NMI is being handled.
pub const BY_NMI: u64 = 1 << 3;
/// The instruction before this one was STI or loaded SS.
pub const SHADOW: u64 = BY_STI | BY_MOV_SS;

const _: () = {
    assert!(Shadow::STI.bits() as u64 == BY_STI);
    assert!(Shadow::MOV_SS.bits() as u64 == BY_MOV_SS);
    assert!(Shadow::NMI.bits() as u64 == BY_NMI);
};

/// The core's word for it.
#[inline(always)]
pub fn decode(blocking: u64) -> Shadow {
    Shadow::from_bits_truncate(blocking as u8)
}

/// The control structure's.
pub fn encode(shadow: Shadow) -> u64 {
    let mut blocking = shadow;
    // Both at once is not a state that a CPU can be in; MOV SS holds off more.
    if shadow.contains(Shadow::MOV_SS) {
        blocking.remove(Shadow::STI);
    }
    blocking.bits().into()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_never_sees_both_shadows() {
        for shadow in [Shadow::STI, Shadow::MOV_SS | Shadow::NMI, Shadow::NMI] {
            assert_eq!(decode(encode(shadow)), shadow);
        }
        assert_eq!(encode(Shadow::all()), BY_MOV_SS | BY_NMI);
    }
}
