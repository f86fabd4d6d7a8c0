//! Events as the control block writes them: EVENTINJ and EXITINTINFO.
//!
//! Source: AMD APM volume 2, "Event Injection" and "EXITINTINFO Pseudo-Code"; the two words have
//! one layout.
use waterbear_core::arch::{Event, Exception};

const VALID: u64 = 1 << 31;
const ERROR_VALID: u64 = 1 << 11;
const KIND: u64 = 7 << 8;
const INTERRUPT: u64 = 0 << 8;
const NMI: u64 = 2 << 8;
const EXCEPTION: u64 = 3 << 8;
const SOFT_INTERRUPT: u64 = 4 << 8;
/// The vector of NMIs.
const NMI_VECTOR: u64 = 2;

/// The word that makes the CPU deliver the event.
///
/// In real mode (`protected` false) exceptions have no error code, and the CPU would push the one
/// that it is told.
pub fn encode(event: Event, protected: bool) -> u64 {
    VALID
        | match event {
            Event::Interrupt(vector) => INTERRUPT | u64::from(vector),
            Event::Nmi => NMI | NMI_VECTOR,
            Event::Exception(Exception { vector, error, .. }) => {
                let error = match error {
                    Some(code) if protected => ERROR_VALID | u64::from(code) << 32,
                    _ => 0,
                };
                EXCEPTION | u64::from(vector) | error
            }
            Event::SoftException { vector, .. } => EXCEPTION | u64::from(vector),
            Event::SoftInterrupt { vector, .. } => SOFT_INTERRUPT | u64::from(vector),
        }
}

/// Whether the word holds an event.
pub fn is_valid(word: u64) -> bool {
    word & VALID != 0
}

/// The event whose delivery was cut short, if one was.
///
/// `injected` is the event that the entry was to deliver; `cr2` what the guest has in CR2, which a
/// page fault has set already.
///
/// A software event that the guest's own instruction caused is not reported: RIP is still at that
/// instruction, and executing it again delivers the event again. One that was injected is, because
/// there may be no such instruction at RIP.
pub fn decode(word: u64, injected: Option<Event>, cr2: u64) -> Option<Event> {
    if !is_valid(word) {
        return None;
    }
    let vector = word as u8;
    match word & KIND {
        INTERRUPT => Some(Event::Interrupt(vector)),
        NMI => Some(Event::Nmi),
        EXCEPTION => match (vector, injected) {
            (
                Exception::BP | Exception::OF,
                Some(
                    event @ (Event::SoftException { vector: sent, .. }
                    | Event::Exception(Exception { vector: sent, .. })),
                ),
            ) => (sent == vector).then_some(event),
            (Exception::BP | Exception::OF, _) => None,
            _ => Some(Event::Exception(Exception {
                vector,
                error: (word & ERROR_VALID != 0).then_some((word >> 32) as u32),
                // DR6 has its bits already, and more of them would be wrong.
                payload: if vector == Exception::PF { cr2 } else { 0 },
            })),
        },
        SOFT_INTERRUPT => match injected {
            Some(event @ Event::SoftInterrupt { vector: sent, .. }) if sent == vector => {
                Some(event)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The length of the instruction that stands for a software event.
pub fn soft_length(event: Event) -> Option<u8> {
    match event {
        Event::SoftException { length, .. } | Event::SoftInterrupt { length, .. } => Some(length),
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_words_of_the_manual() {
        let words = [
            (Event::Interrupt(0x30), 0x8000_0030),
            (Event::Nmi, 0x8000_0202),
            (Event::Exception(Exception::invalid_opcode()), 0x8000_0306),
            (
                Event::Exception(Exception::general_protection(0x18)),
                0x18_8000_0b0d,
            ),
            (
                Event::SoftException {
                    vector: 3,
                    length: 1,
                },
                0x8000_0303,
            ),
            (
                Event::SoftInterrupt {
                    vector: 0x80,
                    length: 2,
                },
                0x8000_0480,
            ),
        ];
        for (event, word) in words {
            assert_eq!(encode(event, true), word, "{event:?}");
        }
    }

    #[test]
    fn an_exception_in_real_mode_has_no_error_code() {
        let event = Event::Exception(Exception::general_protection(0x18));
        assert_eq!(encode(event, false), 0x8000_030d);
    }

    #[test]
    fn what_was_cut_short_is_what_was_injected() {
        let cr2 = 0x1234;
        for event in [
            Event::Interrupt(0xff),
            Event::Nmi,
            Event::Exception(Exception::plain(Exception::DE)),
            Event::Exception(Exception::with_error(Exception::TS, 0x28)),
            Event::Exception(Exception::page_fault(cr2, 2)),
            Event::SoftException {
                vector: Exception::BP,
                length: 1,
            },
            Event::SoftInterrupt {
                vector: 0x21,
                length: 2,
            },
        ] {
            let word = encode(event, true);
            assert_eq!(decode(word, Some(event), cr2), Some(event));
        }
        assert_eq!(decode(0, Some(Event::Nmi), cr2), None);
    }

    #[test]
    fn the_guest_s_own_software_event_is_executed_again() {
        let vector = 0x21;
        let word = encode(Event::SoftInterrupt { vector, length: 2 }, true);
        assert_eq!(decode(word, None, 0), None);
        // Another one was injected, and is over.
        let other = Event::SoftInterrupt {
            vector: 0x22,
            length: 2,
        };
        assert_eq!(decode(word, Some(other), 0), None);
        assert_eq!(decode(0x8000_0303, None, 0), None);
    }
}
