//! Events as entries and exits write them.
//!
//! Source: Intel SDM volume 3, "VM-Entry Controls for Event Injection" and "Information for VM
//! Exits That Occur During Event Delivery".
use waterbear_core::arch::{Event, Exception};

const VALID: u32 = 1 << 31;
const HAS_ERROR: u32 = 1 << 11;

const INTERRUPT: u32 = 0;
const NMI: u32 = 2;
const EXCEPTION: u32 = 3;
const SOFT_INTERRUPT: u32 = 4;
/// INT1 alone.
const PRIVILEGED_EXCEPTION: u32 = 5;
const SOFT_EXCEPTION: u32 = 6;

/// The bits of DR6 that a debug exception sets.
pub const DR6_NEW: u64 = 0xe00f;

/// An event in the fields of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// VM-entry interruption information.
    pub info: u32,
    /// VM-entry exception error code.
    pub error: u32,
    /// VM-entry instruction length.
    pub length: u32,
}

/// How an entry delivers `event`, to a guest in protected mode or not.
pub fn encode(event: Event, protected: bool) -> Injection {
    let of = |kind: u32, vector: u8, length: u8| Injection {
        info: VALID | kind << 8 | u32::from(vector),
        error: 0,
        length: length.into(),
    };
    match event {
        Event::Interrupt(vector) => of(INTERRUPT, vector, 0),
        Event::Nmi => of(NMI, 2, 0),
        Event::SoftInterrupt { vector, length } => of(SOFT_INTERRUPT, vector, length),
        Event::SoftException { vector, length } if vector == Exception::DB => {
            of(PRIVILEGED_EXCEPTION, vector, length)
        }
        Event::SoftException { vector, length } => of(SOFT_EXCEPTION, vector, length),
        Event::Exception(exception) => {
            let mut injection = of(EXCEPTION, exception.vector, 0);
            // The entry fails unless exactly these have an error code, and in real mode none.
            if protected && has_error(exception.vector) {
                injection.info |= HAS_ERROR;
                injection.error = exception.error.unwrap_or(0) & 0xffff;
            }
            injection
        }
    }
}

fn has_error(vector: u8) -> bool {
    matches!(
        vector,
        Exception::DF
            | Exception::TS
            | Exception::NP
            | Exception::SS
            | Exception::GP
            | Exception::PF
            | Exception::AC
    )
}

/// Whether the event is an NMI.
pub fn is_nmi(info: u32) -> bool {
    info & (VALID | 7 << 8) == VALID | NMI << 8
}

/// Whether there is an event.
pub fn is_valid(info: u32) -> bool {
    info & VALID != 0
}

/// Whether an instruction raised the event.
pub fn is_soft(info: u32) -> bool {
    is_valid(info) && info >> 8 & 7 >= SOFT_INTERRUPT
}

/// The event whose delivery an exit cut short.
///
/// `payload` says what a register has got for an exception with this vector already: so it gets
/// the same again.
pub fn decode(info: u32, error: u32, length: u8, payload: impl FnOnce(u8) -> u64) -> Option<Event> {
    if !is_valid(info) {
        return None;
    }
    let vector = info as u8;
    Some(match info >> 8 & 7 {
        INTERRUPT => Event::Interrupt(vector),
        NMI => Event::Nmi,
        SOFT_INTERRUPT => Event::SoftInterrupt { vector, length },
        SOFT_EXCEPTION | PRIVILEGED_EXCEPTION => Event::SoftException { vector, length },
        _ => Event::Exception(Exception {
            vector,
            error: (info & HAS_ERROR != 0).then_some(error),
            payload: payload(vector),
        }),
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_an_exit_cut_short_is_what_an_entry_was_to_deliver() {
        for event in [
            Event::Interrupt(0x31),
            Event::Nmi,
            Event::SoftInterrupt {
                vector: 0x80,
                length: 2,
            },
            Event::SoftException {
                vector: 3,
                length: 1,
            },
            Event::SoftException {
                vector: 1,
                length: 1,
            },
            Event::Exception(Exception::plain(6)),
            Event::Exception(Exception::page_fault(0x1234, 6)),
        ] {
            let Injection {
                info,
                error,
                length,
            } = encode(event, true);
            let payload = |vector| if vector == 14 { 0x1234 } else { 0 };
            assert_eq!(decode(info, error, length as u8, payload), Some(event));
        }
        assert_eq!(decode(0x30e, 0, 0, |_| 0), None);
    }

    #[test]
    fn error_codes_go_with_the_vectors_that_have_one_in_protected_mode_only() {
        let gp = Event::Exception(Exception::general_protection(0x1_0008));
        assert_eq!(encode(gp, true).info, 0x8000_0b0d);
        assert_eq!(encode(gp, true).error, 8);
        assert_eq!(encode(gp, false).info, 0x8000_030d);
        // A vector that always has one gets one.
        let without = Event::Exception(Exception::plain(13));
        assert_eq!(encode(without, true).info, 0x8000_0b0d);
        let too_much = Event::Exception(Exception::with_error(6, 1));
        assert_eq!(encode(too_much, true).info, 0x8000_0306);
    }
}
