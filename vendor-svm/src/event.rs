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
