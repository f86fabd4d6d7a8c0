//! What the manual says about rights, sentence by sentence: Intel SDM volume 3,
//! "Determination of Access Rights" and "Page-Fault Exceptions".
use waterbear_core::paging::{Access, Kind, Mode};

use crate::tables::{NX, P, Shape, U, W};

/// The settings that rights depend on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub wp: bool,
    pub smep: bool,
    pub smap: bool,
    pub ac: bool,
    pub nxe: bool,
}

impl Settings {
    pub fn all() -> impl Iterator<Item = Settings> {
        (0..32).map(|bits| Settings {
            wp: bits & 1 != 0,
            smep: bits & 2 != 0,
            smap: bits & 4 != 0,
            ac: bits & 8 != 0,
            nxe: bits & 16 != 0,
        })
    }
}

/// What comes of an access through these entries, the first one first: nothing,
/// or a page fault with an error code.
pub fn verdict(shape: Shape, entries: &[u64], s: Settings, access: Access) -> Result<(), u32> {
    let has_xd = shape != Shape::Bits32;
    let mut code = 0;
    if access.kind == Kind::Write {
        code += 0b00010;
    }
    if access.mode == Mode::User {
        code += 0b00100;
    }
    if access.kind == Kind::Fetch && (s.smep || (has_xd && s.nxe)) {
        code += 0b10000;
    }
    for entry in entries {
        if entry & P == 0 {
            return Err(code);
        }
        if has_xd && entry & NX != 0 && !s.nxe {
            return Err(code + 0b01001);
        }
    }
    // "A linear address is a user-mode address if the U/S flag is 1 in every
    // entry that controls the translation, otherwise a supervisor-mode one."
    let user_address = entries.iter().all(|entry| entry & U != 0);
    let rw_everywhere = entries.iter().all(|entry| entry & W != 0);
    let xd_somewhere = has_xd && s.nxe && entries.iter().any(|entry| entry & NX != 0);
    let explicit = access.mode != Mode::Implicit;
    let smap_lets = !s.smap || (s.ac && explicit);
    let allowed = match (access.mode, access.kind, user_address) {
        // For supervisor-mode accesses.
        (Mode::Supervisor | Mode::Implicit, Kind::Read, false) => true,
        (Mode::Supervisor | Mode::Implicit, Kind::Read, true) => smap_lets,
        (Mode::Supervisor | Mode::Implicit, Kind::Write, false) => !s.wp || rw_everywhere,
        (Mode::Supervisor | Mode::Implicit, Kind::Write, true) => {
            if s.wp {
                smap_lets && rw_everywhere
            } else {
                smap_lets
            }
        }
        (Mode::Supervisor | Mode::Implicit, Kind::Fetch, false) => !xd_somewhere,
        (Mode::Supervisor | Mode::Implicit, Kind::Fetch, true) => !s.smep && !xd_somewhere,
        // For user-mode accesses.
        (Mode::User, _, false) => false,
        (Mode::User, Kind::Read, true) => true,
        (Mode::User, Kind::Write, true) => rw_everywhere,
        (Mode::User, Kind::Fetch, true) => !xd_somewhere,
    };
    if allowed { Ok(()) } else { Err(code + 1) }
}
